-- One row a change: from `began` on the server was in `state`, until the next row of the same server.
CREATE TABLE health_history (
    server  KEYTEXT NOT NULL,
    began   BIGINT NOT NULL,
    state   TEXT NOT NULL,
    failed  TEXT NOT NULL, -- the checks that failed, joined by commas
    CONSTRAINT health_history_pkey PRIMARY KEY (server, began)
);
CREATE INDEX health_history_by_age ON health_history (began);

-- One row: until when somebody checked. What lies between it and the next start, nobody knows.
CREATE TABLE health_checked (
    one    BIGINT PRIMARY KEY CHECK (one = 1),
    until  BIGINT NOT NULL
);

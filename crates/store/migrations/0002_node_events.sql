-- What happened on nodes, as their agents' journals tell it; the newest of each node.
CREATE TABLE node_events (
    id         BIGINT PRIMARY KEY,
    node       KEYTEXT NOT NULL,
    journal    BIGINT NOT NULL,
    seq        BIGINT NOT NULL,  -- the event's number in that journal
    at         BIGINT NOT NULL,  -- by the node's clock
    kind       KEYTEXT NOT NULL,
    container  KEYTEXT NOT NULL, -- our id; '' where there is none
    docker_id  KEYTEXT NOT NULL, -- '' where there is none
    name       TEXT NOT NULL,
    detail     TEXT NOT NULL
);
CREATE UNIQUE INDEX node_events_by_number ON node_events (node, journal, seq);
CREATE INDEX node_events_by_node ON node_events (node, id);
CREATE INDEX node_events_by_container ON node_events (node, container, id);
CREATE INDEX node_events_by_docker_id ON node_events (node, docker_id, id);

-- How far each node's journal was read.
CREATE TABLE node_journals (
    node     KEYTEXT NOT NULL,
    journal  BIGINT NOT NULL,
    seq      BIGINT NOT NULL,
    CONSTRAINT node_journals_pkey PRIMARY KEY (node)
);

-- KEYTEXT is a text that is compared byte by byte: TEXT on SQLite, TEXT COLLATE "C" on PostgreSQL.
-- Moments are unix milliseconds. Truths are 0 and 1. Both databases read this file as it stands otherwise.

-- One row. Each write transaction locks it first, so write transactions run one after another and the revisions and
-- audit numbers they hand out are in the order of their commits.
CREATE TABLE store_head (
    one          BIGINT PRIMARY KEY CHECK (one = 1),
    revision     BIGINT NOT NULL,
    floor        BIGINT NOT NULL, -- changes up to this revision are no longer kept
    audit_seq    BIGINT NOT NULL,
    audit_hmac   TEXT NOT NULL,
    audit_seal   TEXT NOT NULL,
    key_id       TEXT NOT NULL,   -- the master key that new secrets are sealed with
    root_sealed  TEXT NOT NULL    -- the secret that other keys are derived from
);

CREATE TABLE resources (
    kind         KEYTEXT NOT NULL,
    id           KEYTEXT NOT NULL,
    name         KEYTEXT NOT NULL,
    parent       KEYTEXT NOT NULL, -- '' where there is none
    unique_name  KEYTEXT,          -- the name, where it may be taken only once within kind and parent
    spec         TEXT NOT NULL,
    status       TEXT NOT NULL,
    sealed       TEXT,
    generation   BIGINT NOT NULL,
    revision     BIGINT NOT NULL,
    created_at   BIGINT NOT NULL,
    updated_at   BIGINT NOT NULL,
    CONSTRAINT resources_pkey PRIMARY KEY (kind, id)
);
CREATE UNIQUE INDEX resources_by_unique_name ON resources (kind, parent, unique_name);
CREATE INDEX resources_by_parent ON resources (kind, parent, id);
CREATE INDEX resources_by_name ON resources (kind, name);

CREATE TABLE changes (
    revision     BIGINT PRIMARY KEY,
    subject      TEXT NOT NULL,
    id           TEXT NOT NULL,
    name         TEXT NOT NULL,
    what         TEXT NOT NULL,
    at           BIGINT NOT NULL
);

CREATE TABLE users (
    id                    KEYTEXT NOT NULL,
    username              KEYTEXT NOT NULL,
    password_hash         TEXT NOT NULL,
    role                  TEXT NOT NULL,
    disabled              BIGINT NOT NULL,
    must_change_password  BIGINT NOT NULL,
    generation            BIGINT NOT NULL,
    created_at            BIGINT NOT NULL,
    updated_at            BIGINT NOT NULL,
    CONSTRAINT users_pkey PRIMARY KEY (id)
);
CREATE UNIQUE INDEX users_by_username ON users (username);

CREATE TABLE sessions (
    id                 KEYTEXT NOT NULL,
    user_id            KEYTEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    access_hash        KEYTEXT NOT NULL,
    access_expires_at  BIGINT NOT NULL,
    refresh_hash       KEYTEXT NOT NULL,
    expires_at         BIGINT NOT NULL,
    address            TEXT NOT NULL,
    created_at         BIGINT NOT NULL,
    last_used_at       BIGINT NOT NULL,
    revoked_at         BIGINT,
    CONSTRAINT sessions_pkey PRIMARY KEY (id)
);
CREATE UNIQUE INDEX sessions_by_access ON sessions (access_hash);
CREATE UNIQUE INDEX sessions_by_refresh ON sessions (refresh_hash);
CREATE INDEX sessions_by_user ON sessions (user_id, id);
CREATE INDEX sessions_by_end ON sessions (expires_at);

-- Refresh tokens that were exchanged: one of them coming back means that it was stolen.
CREATE TABLE spent_refresh_tokens (
    hash        KEYTEXT NOT NULL,
    session_id  KEYTEXT NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    spent_at    BIGINT NOT NULL,
    CONSTRAINT spent_refresh_tokens_pkey PRIMARY KEY (hash)
);
CREATE INDEX spent_refresh_tokens_by_session ON spent_refresh_tokens (session_id);

CREATE TABLE api_tokens (
    id            KEYTEXT NOT NULL,
    name          TEXT NOT NULL,
    user_id       KEYTEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    hash          KEYTEXT NOT NULL,
    role          TEXT NOT NULL,
    scopes        TEXT NOT NULL,
    created_at    BIGINT NOT NULL,
    expires_at    BIGINT NOT NULL,
    last_used_at  BIGINT,
    revoked_at    BIGINT,
    CONSTRAINT api_tokens_pkey PRIMARY KEY (id)
);
CREATE UNIQUE INDEX api_tokens_by_hash ON api_tokens (hash);
CREATE INDEX api_tokens_by_user ON api_tokens (user_id, id);

CREATE TABLE audit (
    seq         BIGINT PRIMARY KEY,
    at          BIGINT NOT NULL,
    actor       KEYTEXT NOT NULL,
    action      KEYTEXT NOT NULL,
    target      KEYTEXT NOT NULL, -- '' where there is none
    outcome     KEYTEXT NOT NULL,
    detail      TEXT NOT NULL,
    request_id  TEXT NOT NULL,
    address     TEXT NOT NULL,
    prev_hmac   TEXT NOT NULL,
    hmac        TEXT NOT NULL
);
CREATE INDEX audit_by_actor ON audit (actor, seq);
CREATE INDEX audit_by_target ON audit (target, seq);
CREATE INDEX audit_by_action ON audit (action, seq);

CREATE TABLE idempotency (
    actor            KEYTEXT NOT NULL,
    idem_key         KEYTEXT NOT NULL,
    request_hash     TEXT NOT NULL,
    operation_id     TEXT,
    status           BIGINT,
    response_sealed  TEXT,
    created_at       BIGINT NOT NULL,
    CONSTRAINT idempotency_pkey PRIMARY KEY (actor, idem_key)
);
CREATE INDEX idempotency_by_age ON idempotency (created_at);

-- What each node was last given of clusters' entries, and how far its load balancer's events were read.
CREATE TABLE edge_nodes (
    node        KEYTEXT NOT NULL,
    generation  BIGINT NOT NULL,
    digest      TEXT NOT NULL, -- of the document with this generation
    address     TEXT NOT NULL, -- where the node was last seen to connect from; empty where never
    instance    TEXT NOT NULL, -- the load balancer's process whose events were read; empty before the first
    sequence    BIGINT NOT NULL,
    CONSTRAINT edge_nodes_pkey PRIMARY KEY (node)
);

-- What happened to clusters, with its reason.
CREATE TABLE cluster_events (
    cluster   KEYTEXT NOT NULL,
    sequence  BIGINT NOT NULL,
    at        BIGINT NOT NULL,
    kind      TEXT NOT NULL,
    member    TEXT, -- a server's id
    node      TEXT, -- the entry node that saw it
    reason    TEXT NOT NULL,
    detail    TEXT, -- JSON
    CONSTRAINT cluster_events_pkey PRIMARY KEY (cluster, sequence)
);

-- What was counted since a cluster was made, and the counters of load balancers that it was last brought up to.
CREATE TABLE cluster_totals (
    cluster  KEYTEXT NOT NULL,
    totals   TEXT NOT NULL, -- JSON
    CONSTRAINT cluster_totals_pkey PRIMARY KEY (cluster)
);

-- The same totals as they stood at the end of a minute: what lies between two rows is the difference.
CREATE TABLE cluster_points (
    cluster  KEYTEXT NOT NULL,
    at       BIGINT NOT NULL,
    totals   TEXT NOT NULL, -- JSON
    CONSTRAINT cluster_points_pkey PRIMARY KEY (cluster, at)
);

-- How each task of a job is. A task without a row waits for its first attempt.
CREATE TABLE job_tasks (
    job     KEYTEXT NOT NULL,
    number  BIGINT NOT NULL,
    record  TEXT NOT NULL, -- JSON
    CONSTRAINT job_tasks_pkey PRIMARY KEY (job, number)
);

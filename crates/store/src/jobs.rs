//! The tasks of jobs. The jobs themselves are resources; of their tasks, thousands a job, only those have a row that something
//! became of. None of it goes into the change feed: the job's own row changes with it, once for all of them.

use crate::db::{Columns, Sql};
use crate::error::StoreError;
use crate::store::Store;
use crate::tx::{Tx, values};
use sqlx::AssertSqlSafe;

/// Rows that one statement writes.
const PER_INSERT: usize = 200;

/// A task that something became of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobTaskRow {
    pub job: String,
    pub number: i64,
    /// JSON.
    pub record: String,
}

impl Tx {
    /// Writes tasks as they are now. No task may be named twice.
    pub async fn job_tasks_put(&mut self, tasks: &[JobTaskRow]) -> Result<(), StoreError> {
        for some in tasks.chunks(PER_INSERT) {
            let mut sql = String::from("INSERT INTO job_tasks (job, number, record) VALUES ");
            values(&mut sql, some.len(), 3);
            sql.push_str(" ON CONFLICT (job, number) DO UPDATE SET record = excluded.record");
            // The text is made of parameter numbers.
            let mut insert = sqlx::query(AssertSqlSafe(sql)).persistent(some.len() <= 4);
            for task in some {
                insert = insert.bind(task.job.as_str()).bind(task.number).bind(task.record.as_str());
            }
            self.run("write tasks of jobs", insert).await?;
        }
        Ok(())
    }

    /// Forgets all tasks of a job.
    pub async fn job_tasks_forget(&mut self, job: &str) -> Result<(), StoreError> {
        let delete = sqlx::query("DELETE FROM job_tasks WHERE job = $1").bind(job);
        self.run("forget a job's tasks", delete).await?;
        Ok(())
    }
}

impl Store {
    /// The tasks of a job that something became of, from number `from` on, in order.
    pub async fn job_tasks(&self, job: &str, from: i64, limit: u32) -> Result<Vec<JobTaskRow>, StoreError> {
        let select = sqlx::query("SELECT number, record FROM job_tasks WHERE job = $1 AND number >= $2 ORDER BY number LIMIT $3")
            .bind(job)
            .bind(from)
            .bind(i64::from(limit));
        let mut reader = self.shared.db.reader().await?;
        let rows = reader.all("read a job's tasks", select).await?;
        rows.iter()
            .map(|row| {
                Ok(JobTaskRow {
                    job: job.to_owned(),
                    number: row.int(0)?,
                    record: row.text(1)?,
                })
            })
            .collect()
    }
}

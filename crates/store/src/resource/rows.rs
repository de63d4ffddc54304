//! Reading and writing resources.

use super::{ListQuery, NewResource, Patch, Resource, place};
use crate::change::{Kind, Subject, What};
use crate::db::{Columns, Query, Sql};
use crate::error::{SealError, StoreError};
use crate::seal::Secret;
use crate::store::Store;
use crate::tx::{Tx, values};
use nm_types::Timestamp;
use sqlx::AssertSqlSafe;
use sqlx::any::AnyRow;

macro_rules! columns {
    () => {
        "kind, id, name, parent, unique_name, spec, status, sealed, generation, revision, created_at, updated_at"
    };
}

const GET: &str = concat!("SELECT ", columns!(), " FROM resources WHERE kind = $1 AND id = $2");
const INSERT: &str = concat!(
    "INSERT INTO resources (",
    columns!(),
    ") VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 1, $9, $10, $10)"
);
const PUT: &str = concat!(
    "INSERT INTO resources (",
    columns!(),
    ") VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 1, $9, $10, $10) \
     ON CONFLICT (kind, id) DO UPDATE SET name = excluded.name, parent = excluded.parent, unique_name = excluded.unique_name, \
     spec = excluded.spec, status = excluded.status, sealed = excluded.sealed, generation = resources.generation + 1, \
     revision = excluded.revision, updated_at = excluded.updated_at RETURNING ",
    columns!()
);
const UPDATE: &str = concat!(
    "UPDATE resources SET spec = COALESCE($3, spec), status = COALESCE($4, status), name = COALESCE($5, name), \
     unique_name = CASE WHEN unique_name IS NULL THEN NULL ELSE COALESCE($5, unique_name) END, parent = COALESCE($6, parent), \
     sealed = CASE WHEN $7 = 1 THEN $8 ELSE sealed END, generation = generation + $9, revision = $10, \
     updated_at = CASE WHEN $9 = 1 THEN $11 ELSE updated_at END \
     WHERE kind = $1 AND id = $2 AND ($12 IS NULL OR generation = $12) AND ($13 IS NULL OR revision = $13) RETURNING ",
    columns!()
);

impl Resource {
    fn read(row: &AnyRow) -> Result<Self, StoreError> {
        let kind = row.text(0)?;
        Ok(Self {
            kind: Kind::parse(&kind).ok_or_else(|| StoreError::corrupt(format!("a resource of the unknown kind `{kind}`")))?,
            id: row.text(1)?,
            name: row.text(2)?,
            parent: row.text(3)?,
            unique: row.opt_text(4)?.is_some(),
            spec: row.text(5)?.into(),
            status: row.text(6)?.into(),
            sealed: row.opt_text(7)?.map(Into::into),
            generation: row.int(8)?,
            revision: row.int(9)?,
            created_at: row.moment(10)?,
            updated_at: row.moment(11)?,
        })
    }
}

/// The rows one statement of [`Tx::update_statuses`] writes.
const STATUSES_PER_UPDATE: usize = 200;

impl Tx {
    /// Writes a new resource. [`StoreError::Conflict`] when its id or its unique name is taken.
    pub async fn insert(&mut self, new: NewResource) -> Result<Resource, StoreError> {
        let sealed = self.seal_new(&new)?;
        let revision = self.next_revision();
        let insert = bind_new(INSERT, &new, sealed.as_deref(), revision, self.now);
        self.run("insert a resource", insert).await?;
        self.changed(revision, new.kind.into(), &new.id, &new.name, What::Created);
        let NewResource {
            kind,
            id,
            name,
            parent,
            unique,
            spec,
            status,
            secret: _,
        } = new;
        Ok(Resource {
            kind,
            id,
            name,
            parent,
            unique,
            spec: spec.into(),
            status: status.into(),
            sealed: sealed.map(Into::into),
            generation: 1,
            revision,
            created_at: self.now,
            updated_at: self.now,
        })
    }

    /// Writes a resource whether or not it is there already: for settings and for things found by observation. What was
    /// there is replaced, its secret included.
    pub async fn put(&mut self, new: NewResource) -> Result<Resource, StoreError> {
        let sealed = self.seal_new(&new)?;
        let revision = self.next_revision();
        let put = bind_new(PUT, &new, sealed.as_deref(), revision, self.now);
        let row = self.one("put a resource", put).await?;
        let held = Resource::read(&row.ok_or_else(|| StoreError::corrupt("a written row was not given back"))?)?;
        let what = if held.generation == 1 { What::Created } else { What::Updated };
        self.changed(revision, held.kind.into(), &held.id, &held.name, what);
        Ok(held)
    }

    /// Changes a resource and gives it as it is then. A change of the status alone leaves the generation.
    pub async fn update(&mut self, kind: Kind, id: &str, patch: Patch) -> Result<Resource, StoreError> {
        let wish = patch.touches_wish();
        let sealed = match &patch.secret {
            Some(Some(secret)) => Some(self.seal(place(kind, id), secret)?),
            Some(None) | None => None,
        };
        let revision = self.next_revision();
        let update = sqlx::query(UPDATE)
            .bind(kind.as_str())
            .bind(id)
            .bind(patch.spec.as_deref())
            .bind(patch.status.as_deref())
            .bind(patch.name.as_deref())
            .bind(patch.parent.as_deref())
            .bind(i64::from(patch.secret.is_some()))
            .bind(sealed)
            .bind(i64::from(wish))
            .bind(revision)
            .bind(self.now.0)
            .bind(patch.generation)
            .bind(patch.revision);
        match self.one("update a resource", update).await? {
            Some(row) => {
                let held = Resource::read(&row)?;
                self.changed(
                    revision,
                    kind.into(),
                    id,
                    &held.name,
                    if wish { What::Updated } else { What::Status },
                );
                Ok(held)
            }
            None => Err(self.why_not(kind, id).await),
        }
    }

    /// Writes the statuses (JSON) of many resources of one kind, in few statements. Those that are gone meanwhile are left
    /// out. Gives how many were written.
    pub async fn update_statuses(&mut self, kind: Kind, statuses: &[(&str, &str)]) -> Result<u64, StoreError> {
        let mut done = 0;
        for chunk in statuses.chunks(STATUSES_PER_UPDATE) {
            let mut sql = String::from("WITH seen (id, status, revision) AS (VALUES ");
            values(&mut sql, chunk.len(), 3);
            let kind_at = chunk.len() * 3 + 1;
            // Parameter numbers only.
            sql.push_str(&format!(
                ") UPDATE resources SET status = seen.status, revision = seen.revision FROM seen \
                 WHERE resources.kind = ${kind_at} AND resources.id = seen.id RETURNING resources.id, resources.name, resources.revision"
            ));
            let mut update = sqlx::query(AssertSqlSafe(sql)).persistent(chunk.len() == STATUSES_PER_UPDATE);
            for (id, status) in chunk {
                update = update.bind(*id).bind(*status).bind(self.next_revision());
            }
            let mut rows = self
                .all("update statuses", update.bind(kind.as_str()))
                .await?
                .iter()
                .map(read_written)
                .collect::<Result<Vec<_>, _>>()?;
            // The database gives them in any order; the feed has the revisions ascending.
            rows.sort_by_key(|(_, _, revision)| *revision);
            done += rows.len() as u64;
            for (id, name, revision) in rows {
                self.changed(revision, kind.into(), &id, &name, What::Status);
            }
        }
        Ok(done)
    }

    /// Removes a resource and gives it as it last was. [`StoreError::NotFound`] when there is none.
    pub async fn delete(&mut self, kind: Kind, id: &str) -> Result<Resource, StoreError> {
        let delete = sqlx::query(concat!("DELETE FROM resources WHERE kind = $1 AND id = $2 RETURNING ", columns!()));
        let Some(row) = self.one("delete a resource", delete.bind(kind.as_str()).bind(id)).await? else {
            return Err(not_found(kind, id));
        };
        let held = Resource::read(&row)?;
        let revision = self.next_revision();
        self.changed(revision, kind.into(), id, &held.name, What::Deleted);
        Ok(held)
    }

    /// A resource as this transaction sees it. Nobody else changes it before the transaction ends.
    pub async fn get(&mut self, kind: Kind, id: &str) -> Result<Option<Resource>, StoreError> {
        get(self, kind, id).await
    }

    /// See [`Store::named`].
    pub async fn named(&mut self, kind: Kind, name: &str, parent: Option<&str>) -> Result<Vec<Resource>, StoreError> {
        named(self, kind, name, parent).await
    }

    /// See [`Store::count`].
    pub async fn count(&mut self, kind: Kind, parent: Option<&str>) -> Result<i64, StoreError> {
        count(self, kind, parent).await
    }

    fn seal_new(&self, new: &NewResource) -> Result<Option<String>, StoreError> {
        new.secret
            .as_ref()
            .map(|secret| self.seal(place(new.kind, &new.id), secret))
            .transpose()
    }

    /// Why an update met no row.
    async fn why_not(&mut self, kind: Kind, id: &str) -> StoreError {
        match self.get(kind, id).await {
            Ok(Some(held)) => stale(&held),
            Ok(None) => not_found(kind, id),
            Err(error) => error,
        }
    }
}

impl Store {
    pub async fn get(&self, kind: Kind, id: &str) -> Result<Option<Resource>, StoreError> {
        get(&mut self.shared.db.reader().await?, kind, id).await
    }

    /// Those with this name, in the order of their ids, at most ten: more than one means that the name says too little.
    pub async fn named(&self, kind: Kind, name: &str, parent: Option<&str>) -> Result<Vec<Resource>, StoreError> {
        named(&mut self.shared.db.reader().await?, kind, name, parent).await
    }

    /// A page.
    pub async fn list(&self, query: ListQuery<'_>) -> Result<Vec<Resource>, StoreError> {
        const UP: &str = concat!(
            "SELECT ",
            columns!(),
            " FROM resources WHERE kind = $1 AND id > $2 ORDER BY id LIMIT $3"
        );
        const DOWN: &str = concat!(
            "SELECT ",
            columns!(),
            " FROM resources WHERE kind = $1 AND id < $2 ORDER BY id DESC LIMIT $3"
        );
        const UP_IN: &str = concat!(
            "SELECT ",
            columns!(),
            " FROM resources WHERE kind = $1 AND id > $2 AND parent = $4 ORDER BY id LIMIT $3"
        );
        const DOWN_IN: &str = concat!(
            "SELECT ",
            columns!(),
            " FROM resources WHERE kind = $1 AND id < $2 AND parent = $4 ORDER BY id DESC LIMIT $3"
        );
        // Before the first and after the last of all ids.
        let edge = if query.newest_first { "\u{10ffff}" } else { "" };
        let sql = match (query.newest_first, query.parent) {
            (false, None) => UP,
            (true, None) => DOWN,
            (false, Some(_)) => UP_IN,
            (true, Some(_)) => DOWN_IN,
        };
        let after = query.after.unwrap_or(edge);
        if after.contains('\0') || query.parent.is_some_and(|p| p.contains('\0')) {
            return Ok(Vec::new());
        }
        let mut select = sqlx::query(sql).bind(query.kind.as_str()).bind(after).bind(i64::from(query.limit));
        if let Some(parent) = query.parent {
            select = select.bind(parent);
        }
        read_all(&mut self.shared.db.reader().await?, select).await
    }

    /// All of a kind, in the order of their ids: for loading at start.
    pub async fn all(&self, kind: Kind) -> Result<Vec<Resource>, StoreError> {
        let select = sqlx::query(concat!("SELECT ", columns!(), " FROM resources WHERE kind = $1 ORDER BY id"));
        read_all(&mut self.shared.db.reader().await?, select.bind(kind.as_str())).await
    }

    pub async fn count(&self, kind: Kind, parent: Option<&str>) -> Result<i64, StoreError> {
        count(&mut self.shared.db.reader().await?, kind, parent).await
    }

    /// Opens a resource's secret; None when it has none. [`StoreError::Stale`] when the resource was read before a change
    /// of the master key and its secret may have changed since.
    pub async fn open_sealed(&self, resource: &Resource) -> Result<Option<Secret>, StoreError> {
        let Some(sealed) = &resource.sealed else { return Ok(None) };
        match self.shared.ring.open_sealed(resource.place(), sealed) {
            // Kept in memory since before a change of the master key: the row holds the same secret, wrapped anew.
            Err(SealError::WrongKey { .. }) => {}
            opened => return Ok(Some(opened?)),
        }
        let held = self
            .get(resource.kind, &resource.id)
            .await?
            .ok_or_else(|| not_found(resource.kind, &resource.id))?;
        match &held.sealed {
            Some(sealed) if held.generation == resource.generation => Ok(Some(self.shared.ring.open_sealed(held.place(), sealed)?)),
            _ => Err(stale(&held)),
        }
    }
}

fn not_found(kind: Kind, id: &str) -> StoreError {
    StoreError::NotFound {
        kind: Subject::Resource(kind),
        id: id.to_owned(),
    }
}

fn stale(held: &Resource) -> StoreError {
    StoreError::Stale {
        kind: held.kind.into(),
        id: held.id.clone(),
        generation: held.generation,
        revision: held.revision,
    }
}

fn bind_new<'q>(sql: &'static str, new: &NewResource, sealed: Option<&str>, revision: i64, now: Timestamp) -> Query<'q> {
    sqlx::query(sql)
        .bind(new.kind.as_str())
        .bind(new.id.as_str())
        .bind(new.name.as_str())
        .bind(new.parent.as_str())
        .bind(new.unique.then_some(new.name.as_str()))
        .bind(new.spec.as_str())
        .bind(new.status.as_str())
        .bind(sealed)
        .bind(revision)
        .bind(now.0)
}

fn read_written(row: &AnyRow) -> Result<(String, String, i64), StoreError> {
    Ok((row.text(0)?, row.text(1)?, row.int(2)?))
}

async fn read_all(sql: &mut impl Sql, select: Query<'_>) -> Result<Vec<Resource>, StoreError> {
    sql.all("read resources", select).await?.iter().map(Resource::read).collect()
}

async fn get(sql: &mut impl Sql, kind: Kind, id: &str) -> Result<Option<Resource>, StoreError> {
    // PostgreSQL refuses the question, and no stored text holds one.
    if id.contains('\0') {
        return Ok(None);
    }
    let row = sql.one("read a resource", sqlx::query(GET).bind(kind.as_str()).bind(id)).await?;
    row.as_ref().map(Resource::read).transpose()
}

async fn named(sql: &mut impl Sql, kind: Kind, name: &str, parent: Option<&str>) -> Result<Vec<Resource>, StoreError> {
    if name.contains('\0') || parent.is_some_and(|p| p.contains('\0')) {
        return Ok(Vec::new());
    }
    let select = sqlx::query(concat!(
        "SELECT ",
        columns!(),
        " FROM resources WHERE kind = $1 AND name = $2 AND ($3 IS NULL OR parent = $3) ORDER BY id LIMIT 10"
    ));
    read_all(sql, select.bind(kind.as_str()).bind(name).bind(parent)).await
}

async fn count(sql: &mut impl Sql, kind: Kind, parent: Option<&str>) -> Result<i64, StoreError> {
    if parent.is_some_and(|p| p.contains('\0')) {
        return Ok(0);
    }
    let count = sqlx::query("SELECT COUNT(*) FROM resources WHERE kind = $1 AND ($2 IS NULL OR parent = $2)");
    let row = sql.one("count resources", count.bind(kind.as_str()).bind(parent)).await?;
    row.ok_or_else(|| StoreError::corrupt("a count gave no row"))?.int(0)
}

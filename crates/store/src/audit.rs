//! The audit log: who did what, chained so that no entry can be changed, removed or moved unnoticed.
//!
//! Each entry carries an HMAC-SHA256 over the one before it and its own content. The head row carries the number and
//! HMAC of the last entry, sealed with an HMAC of its own, so that cutting entries off the end shows too. The key comes
//! from the root secret; it is not in the database in the clear.
//!
//! What this cannot show: someone who can write the database puts back an older copy of all of it, log and head.
//! Shipping the entries elsewhere as they are written is the answer to that.

use crate::db::{Columns, Sql};
use crate::error::StoreError;
use crate::seal::keyed;
use crate::store::Store;
use crate::tx::Tx;
use hmac::Mac;
use nm_types::Timestamp;
use sqlx::AssertSqlSafe;
use sqlx::any::AnyRow;
use std::fmt::Write;

/// What one entry says. Nothing secret belongs in it.
#[derive(Debug, Clone, PartialEq)]
pub struct AuditEntry {
    /// A username, `token:<name>`, or `system`.
    pub actor: String,
    /// `container.create`, `auth.login`, …
    pub action: String,
    /// The id or name of what it was done to.
    pub target: Option<String>,
    /// `ok`, or the code of the error.
    pub outcome: String,
    pub detail: serde_json::Value,
    pub request_id: Option<String>,
    /// The client's address.
    pub address: Option<String>,
}

impl AuditEntry {
    /// An entry with outcome `ok` and nothing else known.
    pub fn new(actor: impl Into<String>, action: impl Into<String>) -> Self {
        Self {
            actor: actor.into(),
            action: action.into(),
            target: None,
            outcome: "ok".into(),
            detail: serde_json::Value::Object(serde_json::Map::new()),
            request_id: None,
            address: None,
        }
    }
}

/// An entry as it stands in the log.
#[derive(Debug, Clone, PartialEq)]
pub struct AuditRecord {
    /// 1 for the first; none is left out.
    pub seq: i64,
    pub at: Timestamp,
    pub entry: AuditEntry,
}

/// Which entries [`Store::audit_log`] gives, newest first.
#[derive(Debug, Clone, Default)]
pub struct AuditQuery {
    /// Only entries before this number: the last one of the page before.
    pub before: Option<i64>,
    /// At most so many.
    pub limit: u32,
    pub actor: Option<String>,
    pub action: Option<String>,
    pub target: Option<String>,
    pub outcome: Option<String>,
    /// From this moment on.
    pub from: Option<Timestamp>,
    /// Before this moment.
    pub until: Option<Timestamp>,
}

/// What [`Store::verify_audit`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditReport {
    /// How many entries are as they were written, from the first on.
    pub entries: i64,
    pub first_broken: Option<Broken>,
}

/// The first place where the log is not as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    pub seq: i64,
    pub reason: &'static str,
}

/// The end of the chain, from the head row.
#[derive(Debug, Clone)]
pub(crate) struct AuditHead {
    pub(crate) seq: i64,
    pub(crate) hmac: String,
    pub(crate) seal: String,
}

impl AuditHead {
    /// Of a log without entries.
    pub(crate) fn first(key: &[u8; 32]) -> Self {
        Self::sealed(key, 0, "")
    }

    fn sealed(key: &[u8; 32], seq: i64, hmac: &str) -> Self {
        Self {
            seq,
            hmac: hmac.to_owned(),
            seal: hex::encode(head_mac(key, seq, hmac).finalize().into_bytes()),
        }
    }

    fn is_genuine(&self, key: &[u8; 32]) -> bool {
        hex::decode(&self.seal).is_ok_and(|seal| head_mac(key, self.seq, &self.hmac).verify_slice(&seal).is_ok())
    }
}

type HmacSha256 = hmac::Hmac<sha2::Sha256>;

fn head_mac(key: &[u8; 32], seq: i64, hmac: &str) -> HmacSha256 {
    let mut mac = keyed(key);
    mac.update(b"audit head v1");
    mac.update(&seq.to_le_bytes());
    mac.update(hmac.as_bytes());
    mac
}

/// The texts of an entry as they are stored, in the order they are hashed.
struct Stored {
    seq: i64,
    at: i64,
    /// actor, action, target, outcome, detail, request id, address
    texts: [String; 7],
}

impl Stored {
    fn mac(&self, key: &[u8; 32], prev: &str) -> HmacSha256 {
        let mut mac = keyed(key);
        mac.update(b"audit entry v1");
        mac.update(&self.seq.to_le_bytes());
        mac.update(&self.at.to_le_bytes());
        for text in self.texts.iter().map(String::as_str).chain([prev]) {
            mac.update(&(text.len() as u64).to_le_bytes());
            mac.update(text.as_bytes());
        }
        mac
    }

    fn read(row: &AnyRow) -> Result<Self, StoreError> {
        let mut texts: [String; 7] = Default::default();
        for (i, text) in texts.iter_mut().enumerate() {
            *text = row.text(i + 2)?;
        }
        Ok(Self {
            seq: row.int(0)?,
            at: row.int(1)?,
            texts,
        })
    }

    fn into_record(self) -> Result<AuditRecord, StoreError> {
        let Self {
            seq,
            at,
            texts: [actor, action, target, outcome, detail, request_id, address],
        } = self;
        let detail =
            serde_json::from_str(&detail).map_err(|_| StoreError::corrupt(format!("the detail of audit entry {seq} is not JSON")))?;
        let some = |text: String| (!text.is_empty()).then_some(text);
        let entry = AuditEntry {
            actor,
            action,
            target: some(target),
            outcome,
            detail,
            request_id: some(request_id),
            address: some(address),
        };
        Ok(AuditRecord {
            seq,
            at: Timestamp(at),
            entry,
        })
    }
}

macro_rules! columns {
    () => {
        "seq, at, actor, action, target, outcome, detail, request_id, address"
    };
}

impl Tx {
    /// Writes an audit entry that is kept if and only if this transaction is. Gives its number.
    pub async fn audit(&mut self, entry: AuditEntry) -> Result<i64, StoreError> {
        let key = &self.shared.audit_key;
        // Going on from a forged head would seal the forgery.
        if !self.has_audited() && !self.head.audit.is_genuine(key) {
            return Err(StoreError::corrupt("the head of the audit log was changed from outside"));
        }
        // PostgreSQL stores no NUL; an attempted username may hold one.
        let clean = |text: String| {
            if text.contains('\0') {
                text.replace('\0', "\u{fffd}")
            } else {
                text
            }
        };
        let AuditEntry {
            actor,
            action,
            target,
            outcome,
            detail,
            request_id,
            address,
        } = entry;
        let or_empty = Option::unwrap_or_default;
        let texts = [
            actor,
            action,
            or_empty(target),
            outcome,
            detail.to_string(),
            or_empty(request_id),
            or_empty(address),
        ]
        .map(clean);
        let stored = Stored {
            seq: self.head.audit.seq + 1,
            at: self.now.0,
            texts,
        };
        let prev = self.head.audit.hmac.clone();
        let hmac = hex::encode(stored.mac(key, &prev).finalize().into_bytes());
        let head = AuditHead::sealed(key, stored.seq, &hmac);
        let seq = stored.seq;
        let mut insert = sqlx::query(concat!(
            "INSERT INTO audit (",
            columns!(),
            ", prev_hmac, hmac) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)"
        ))
        .bind(stored.seq)
        .bind(stored.at);
        for text in stored.texts {
            insert = insert.bind(text);
        }
        self.run("write an audit entry", insert.bind(prev).bind(hmac)).await?;
        self.audited(head);
        Ok(seq)
    }
}

impl Store {
    /// A page of the log, newest first.
    pub async fn audit_log(&self, query: &AuditQuery) -> Result<Vec<AuditRecord>, StoreError> {
        let mut sql = String::from(concat!("SELECT ", columns!(), " FROM audit WHERE seq < $1"));
        let texts = [
            ("actor", &query.actor),
            ("action", &query.action),
            ("target", &query.target),
            ("outcome", &query.outcome),
        ];
        let moments = [("at >=", query.from), ("at <", query.until)];
        let mut next = 2;
        let mut and = |condition: &str, operator: &str| {
            // Column names and parameter numbers only; writing to a String does not fail.
            let _ = write!(sql, " AND {condition}{operator} ${next}");
            next += 1;
        };
        texts.iter().filter(|(_, v)| v.is_some()).for_each(|(column, _)| and(column, " ="));
        moments
            .iter()
            .filter(|(_, v)| v.is_some())
            .for_each(|(condition, _)| and(condition, ""));
        let _ = write!(sql, " ORDER BY seq DESC LIMIT ${next}");

        let mut select = sqlx::query(AssertSqlSafe(sql)).bind(query.before.unwrap_or(i64::MAX));
        for text in texts.into_iter().filter_map(|(_, v)| v.as_deref()) {
            // No stored text holds a NUL, and PostgreSQL would refuse the question.
            if text.contains('\0') {
                return Ok(Vec::new());
            }
            select = select.bind(text);
        }
        for moment in moments.into_iter().filter_map(|(_, v)| v) {
            select = select.bind(moment.0);
        }
        let mut reader = self.shared.db.reader().await?;
        let rows = reader.all("read the audit log", select.bind(i64::from(query.limit))).await?;
        rows.iter().map(|row| Stored::read(row)?.into_record()).collect()
    }

    /// Checks every entry and the end of the log. Entries written meanwhile are checked up to the moment it began.
    pub async fn verify_audit(&self) -> Result<AuditReport, StoreError> {
        const PAGE: i64 = 1_000;
        let key = &self.shared.audit_key;
        let mut reader = self.shared.db.reader().await?;
        // In one statement, so that head and log are of the same moment.
        let read_head = sqlx::query("SELECT audit_seq, audit_hmac, audit_seal, (SELECT MAX(seq) FROM audit) FROM store_head");
        let Some(row) = reader.one("read the head of the audit log", read_head).await? else {
            return Ok(AuditReport {
                entries: 0,
                first_broken: Some(Broken {
                    seq: 0,
                    reason: "the head of the log is missing",
                }),
            });
        };
        let head = AuditHead {
            seq: row.int(0)?,
            hmac: row.text(1)?,
            seal: row.text(2)?,
        };
        let last = row.opt_int(3)?.unwrap_or(0);

        let mut prev = String::new();
        let mut good = 0;
        let broken = |entries: i64, reason| {
            Ok(AuditReport {
                entries,
                first_broken: Some(Broken { seq: entries + 1, reason }),
            })
        };
        loop {
            let page = sqlx::query(concat!(
                "SELECT ",
                columns!(),
                ", prev_hmac, hmac FROM audit WHERE seq > $1 AND seq <= $2 ORDER BY seq LIMIT $3"
            ))
            .bind(good)
            .bind(last)
            .bind(PAGE);
            let rows = reader.all("read the audit log", page).await?;
            if rows.is_empty() {
                break;
            }
            for row in &rows {
                let stored = Stored::read(row)?;
                if stored.seq != good + 1 {
                    return broken(good, "an entry is missing");
                }
                let hmac = row.text(10)?;
                let genuine = hex::decode(&hmac).is_ok_and(|h| stored.mac(key, &prev).verify_slice(&h).is_ok());
                if !genuine || row.text(9)? != prev {
                    return broken(good, "an entry was changed or moved");
                }
                (prev, good) = (hmac, stored.seq);
            }
        }
        if !head.is_genuine(key) {
            return broken(good, "the head of the log was changed");
        }
        match good.cmp(&head.seq) {
            std::cmp::Ordering::Less => broken(good, "entries at the end are missing"),
            std::cmp::Ordering::Greater => broken(head.seq, "an entry was added from outside"),
            std::cmp::Ordering::Equal if prev != head.hmac => broken(good - 1, "the last entry is not the one that was written"),
            std::cmp::Ordering::Equal => Ok(AuditReport {
                entries: good,
                first_broken: None,
            }),
        }
    }
}

//! Pages of lists that are whole in memory or at the nodes. Lists of the store have cursors of their own.

use super::reply::Reply;
use nm_types::units::Bounded;
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

/// How long a page is where nobody says.
pub const PAGE: i64 = 50;

/// The query of a list that takes nothing else.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PageQuery {
    /// How many a page; 50 by default.
    #[param(inline)]
    pub limit: Option<Bounded<1, 200>>,
    /// `nextCursor` of the page before.
    #[param(inline)]
    pub cursor: Option<Cursor>,
}

/// The query of a list that every node has its part of.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NodePageQuery {
    /// Id or name of a node; every node that can be reached where none is named.
    pub node_id: Option<String>,
    /// How many a page; 50 by default.
    #[param(inline)]
    pub limit: Option<Bounded<1, 200>>,
    /// `nextCursor` of the page before.
    #[param(inline)]
    pub cursor: Option<Cursor>,
}

/// The key of the last entry of the page before, in hexadecimal. Entries that come or go between two pages move no other one.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(try_from = "String")]
#[schema(value_type = String, pattern = "^([0-9a-f]{2}){1,1024}$")]
pub struct Cursor(Vec<u8>);

impl TryFrom<String> for Cursor {
    type Error = &'static str;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        match hex::decode(&text) {
            Ok(key) if (1..=1024).contains(&key.len()) && !text.bytes().any(|b| b.is_ascii_uppercase()) => Ok(Self(key)),
            Ok(_) | Err(_) => Err("give `nextCursor` of the page before, as it was answered"),
        }
    }
}

impl Cursor {
    /// The key it holds, where it is a text.
    pub fn key(&self) -> Option<&str> {
        std::str::from_utf8(&self.0).ok()
    }
    /// The cursor of the page that begins behind `key`.
    pub fn behind(key: &str) -> String {
        hex::encode(key)
    }
}

/// The page after `cursor`, in the order of `key`, which tells each entry from every other.
pub fn page<T>(mut items: Vec<T>, limit: Option<Bounded<1, 200>>, cursor: Option<&Cursor>, key: impl Fn(&T) -> String) -> Reply<Vec<T>> {
    let limit = usize::try_from(limit.map_or(PAGE, |l| l.get())).unwrap_or(1);
    items.sort_by_cached_key(&key);
    if let Some(Cursor(after)) = cursor {
        items.drain(..items.partition_point(|item| key(item).as_bytes() <= after.as_slice()));
    }
    let more = items.len() > limit;
    items.truncate(limit);
    let next = items.last().filter(|_| more).map(|last| hex::encode(key(last)));
    Reply::list(items, next)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pages(items: &[&str], limit: i64) -> Vec<Vec<String>> {
        let mut out = Vec::new();
        let mut cursor = None;
        loop {
            let items = items.iter().map(|s| (*s).to_owned()).collect();
            let reply = page(items, Bounded::new(limit), cursor.as_ref(), Clone::clone);
            let (items, next) = reply.into_page();
            out.push(items);
            match next {
                Some(text) => cursor = Some(Cursor::try_from(text).unwrap()),
                None => return out,
            }
        }
    }

    #[test]
    fn every_entry_is_on_one_page() {
        assert_eq!(pages(&[], 2), [[""; 0]]);
        assert_eq!(pages(&["b", "a"], 2), [["a", "b"]]);
        assert_eq!(pages(&["c", "b", "a"], 1), [["a"], ["b"], ["c"]]);
        assert_eq!(pages(&["ä", "z", "a\0b", "a"], 3), [vec!["a", "a\0b", "z"], vec!["ä"]]);
    }

    #[test]
    fn cursors_are_what_was_answered() {
        for bad in ["", "0", "zz", "6A", &"61".repeat(1025)] {
            assert!(Cursor::try_from(bad.to_owned()).is_err(), "{bad}");
        }
    }
}

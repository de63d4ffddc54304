//! Small maps of texts, packed.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::BTreeMap;
use std::ops::Index;

/// A map from text to text for values that are kept by the ten thousand and rarely changed: sorted pairs, and not a byte more.
/// A `BTreeMap` takes room for eleven entries when it has one.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TextMap(Box<[(String, String)]>);

impl TextMap {
    pub fn get(&self, key: &str) -> Option<&String> {
        let at = self.0.binary_search_by(|(k, _)| k.as_str().cmp(key)).ok()?;
        Some(&self.0[at].1)
    }
    /// In the order of the keys.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&String, &String)> {
        self.0.iter().map(|(k, v)| (k, v))
    }
    pub fn len(&self) -> usize {
        self.0.len()
    }
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    pub fn clear(&mut self) {
        self.0 = Box::default();
    }
    pub fn to_map(&self) -> BTreeMap<String, String> {
        self.0.iter().cloned().collect()
    }
}

/// Of a key that comes more than once the last value counts, as in any map.
impl FromIterator<(String, String)> for TextMap {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(pairs: I) -> Self {
        pairs.into_iter().collect::<BTreeMap<_, _>>().into()
    }
}

impl From<BTreeMap<String, String>> for TextMap {
    fn from(map: BTreeMap<String, String>) -> Self {
        Self(map.into_iter().collect())
    }
}

impl Index<&str> for TextMap {
    type Output = String;
    fn index(&self, key: &str) -> &String {
        self.get(key).unwrap_or_else(|| panic!("no entry for `{key}`"))
    }
}

impl Serialize for TextMap {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

impl<'de> Deserialize<'de> for TextMap {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        BTreeMap::deserialize(deserializer).map(Self::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_map_it_was_made_of() {
        let pairs = [("b", "2"), ("a", "1"), ("c", "3"), ("a", "last")].map(|(k, v)| (k.to_owned(), v.to_owned()));
        let map: TextMap = pairs.iter().cloned().collect();
        assert_eq!(map.to_map(), pairs.iter().cloned().collect());
        assert_eq!(
            (map["a"].as_str(), map.get("c").unwrap().as_str(), map.get("d")),
            ("last", "3", None)
        );
        let json = serde_json::to_string(&map).unwrap();
        assert_eq!(json, r#"{"a":"last","b":"2","c":"3"}"#);
        assert_eq!(serde_json::from_str::<TextMap>(&json).unwrap(), map);
        let mut map = map;
        map.clear();
        assert!(map.is_empty() && map.iter().next().is_none());
    }
}

//! The tables of all namespaces.
//!
//! The namespace without a name, which most clients use, has a place of its own: its look-up is a branch. In the map it would cost two
//! comparisons of nothing a write, which are not cheap (`run.rs`).

use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Unbounded};

use super::table::Table;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Tables {
    nameless: Option<Table>,
    named: BTreeMap<Box<str>, Table>,
}

impl Tables {
    #[inline]
    pub fn get(&self, namespace: &str) -> Option<&Table> {
        if namespace.is_empty() { self.nameless.as_ref() } else { self.named.get(namespace) }
    }
    #[inline]
    pub fn get_mut(&mut self, namespace: &str) -> Option<&mut Table> {
        if namespace.is_empty() { self.nameless.as_mut() } else { self.named.get_mut(namespace) }
    }
    /// The table of a namespace, an empty one if there was none.
    #[inline]
    pub fn get_or_new(&mut self, namespace: &str) -> &mut Table {
        if namespace.is_empty() {
            return self.nameless.get_or_insert_with(Table::new);
        }
        if !self.named.contains_key(namespace) {
            self.named.insert(namespace.into(), Table::new());
        }
        self.named.get_mut(namespace).expect("inserted above if it was missing")
    }
    pub fn insert(&mut self, namespace: Box<str>, table: Table) {
        if namespace.is_empty() {
            self.nameless = Some(table);
        } else {
            self.named.insert(namespace, table);
        }
    }
    pub fn remove(&mut self, namespace: &str) {
        if namespace.is_empty() {
            self.nameless = None;
        } else {
            self.named.remove(namespace);
        }
    }
    pub fn len(&self) -> usize {
        self.named.len() + usize::from(self.nameless.is_some())
    }
    /// By name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Table)> {
        let named = self.named.iter().map(|(name, table)| (&**name, table));
        self.nameless.iter().map(|table| ("", table)).chain(named)
    }
    /// The name of the namespace behind this one.
    pub fn name_after(&self, namespace: &str) -> Option<&str> {
        self.named.range::<str, _>((Excluded(namespace), Unbounded)).next().map(|(name, _)| &**name)
    }
}

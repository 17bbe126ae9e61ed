//! Reading tree records.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use base_ident::Labels;
use base_ident::filter::Filter;
use store_bolt::{Bucket, Entry};

use super::encode::parent_prefix;
use super::{
    CREATED_AT, ID, INODES, KIND, LABELS, PARENT, PARENTS, SIZE, SNAPSHOTS, UPDATED_AT, V1,
};
use crate::error::SnapshotError;
use crate::labels;
use crate::snapshotter::{Info, Kind, Usage};
use store_bolt::value::{read_count, read_time, read_uvarint};

/// The longest chain of parents: images have at most 127 layers, the kernel takes 500 lower folders.
/// It ends the walk over a damaged chain that has no end.
const MAX_CHAIN: usize = 4096;

/// One state of the records.
#[derive(Clone, Copy)]
pub struct View<'a> {
    snapshots: Option<Bucket<'a>>,
    parents: Option<Bucket<'a>>,
}

/// A snapshot by its place in the tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tree {
    /// The number that its folder has as name.
    pub id: u64,
    /// What it is.
    pub kind: Kind,
    /// The ids of its parents, the nearest first.
    pub parents: Vec<u64>,
}

impl Tree {
    /// The id of the tree that is mounted where a view has none of its own: its parent's.
    pub(crate) fn shown(&self) -> u64 {
        match (self.kind, self.parents.first()) {
            (Kind::View, Some(parent)) => *parent,
            _ => self.id,
        }
    }
}

impl<'a> View<'a> {
    pub(super) fn new(root: Bucket<'a>) -> Result<Self, store_bolt::Error> {
        Ok(match root.bucket(V1)? {
            Some(v1) => View { snapshots: v1.bucket(SNAPSHOTS)?, parents: v1.bucket(PARENTS)? },
            None => View { snapshots: None, parents: None },
        })
    }

    fn record(&self, key: &str) -> base_errors::Result<Option<Record<'a>>> {
        let Some(snapshots) = self.snapshots else { return Ok(None) };
        // No key is empty, and the database would refuse to look for one.
        if key.is_empty() {
            return Ok(None);
        }
        let bucket = snapshots.bucket(key.as_bytes())?;
        Ok(bucket.map(|bucket| Record { key: key.to_owned(), bucket }))
    }

    fn existing(&self, key: &str) -> base_errors::Result<Record<'a>> {
        self.record(key)?.ok_or_else(|| SnapshotError::NotFound(key.to_owned()).into())
    }

    /// The id, description and recorded usage of a snapshot.
    ///
    /// # Errors
    /// NotFound, DataLoss.
    pub fn info(&self, key: &str) -> base_errors::Result<(u64, Info, Usage)> {
        let record = self.existing(key)?;
        Ok((record.id()?, record.info()?, record.usage()?))
    }

    /// Whether there is a snapshot `key`.
    ///
    /// # Errors
    /// Those of the database.
    pub fn has(&self, key: &str) -> base_errors::Result<bool> {
        Ok(self.record(key)?.is_some())
    }

    /// The place of an active snapshot or view.
    ///
    /// # Errors
    /// NotFound; FailedPrecondition for a committed one; DataLoss.
    pub fn tree(&self, key: &str) -> base_errors::Result<Tree> {
        let record = self.existing(key)?;
        let kind = record.kind()?;
        if kind == Kind::Committed {
            return Err(SnapshotError::NotMountable(key.to_owned()).into());
        }
        let parent = record.parent()?;
        Ok(Tree { id: record.id()?, kind, parents: self.chain(&parent)? })
    }

    /// The ids of `key` and its parents, the nearest first; none for an empty key.
    ///
    /// # Errors
    /// NotFound, DataLoss.
    pub fn chain(&self, key: &str) -> base_errors::Result<Vec<u64>> {
        let mut ids = Vec::new();
        let mut next = key.to_owned();
        while !next.is_empty() {
            if ids.len() == MAX_CHAIN {
                return Err(SnapshotError::ChainTooLong(key.to_owned()).into());
            }
            let record =
                self.record(&next)?.ok_or_else(|| SnapshotError::ParentNotFound(next.clone()))?;
            ids.push(record.id()?);
            next = record.parent()?;
        }
        Ok(ids)
    }

    /// Whether any snapshot stands on the one with this id.
    ///
    /// # Errors
    /// Those of the database.
    pub fn has_children(&self, id: u64) -> base_errors::Result<bool> {
        let Some(parents) = self.parents else { return Ok(false) };
        let prefix = parent_prefix(id);
        match parents.range_from(&prefix).next() {
            Some(entry) => Ok(entry?.0.starts_with(&prefix)),
            None => Ok(false),
        }
    }

    /// All snapshots that `filter` takes, in the order of their keys. A damaged record is logged
    /// and left out.
    ///
    /// # Errors
    /// Those of the database.
    pub fn list(&self, filter: &Filter) -> base_errors::Result<Vec<(u64, Info)>> {
        let mut list = Vec::new();
        let Some(snapshots) = self.snapshots else { return Ok(list) };
        for entry in snapshots.iter() {
            let (key, Entry::Bucket(bucket)) = entry? else { continue };
            let record = Record { key: String::from_utf8_lossy(key).into_owned(), bucket };
            match record.id().and_then(|id| Ok((id, record.info()?))) {
                Ok((id, info)) if labels::matches(filter, &info) => list.push((id, info)),
                Ok(_) => {}
                Err(error) => tracing::warn!(%error, "damaged snapshot record"),
            }
        }
        Ok(list)
    }

    /// The ids of all snapshots.
    ///
    /// # Errors
    /// Those of the database and of any damaged record: then no folder may be taken for garbage.
    pub fn ids(&self) -> base_errors::Result<BTreeSet<u64>> {
        Ok(self.kinds()?.into_keys().collect())
    }

    /// The ids of all snapshots, with what each is.
    ///
    /// # Errors
    /// As [`View::ids`].
    pub fn kinds(&self) -> base_errors::Result<BTreeMap<u64, Kind>> {
        let mut kinds = BTreeMap::new();
        let Some(snapshots) = self.snapshots else { return Ok(kinds) };
        for entry in snapshots.iter() {
            let (key, Entry::Bucket(bucket)) = entry? else { continue };
            let record = Record { key: String::from_utf8_lossy(key).into_owned(), bucket };
            kinds.insert(record.id()?, record.kind()?);
        }
        Ok(kinds)
    }
}

/// One snapshot's bucket.
struct Record<'a> {
    key: String,
    bucket: Bucket<'a>,
}

impl Record<'_> {
    fn damaged(&self, reason: &'static str) -> base_errors::Error {
        SnapshotError::Damaged { key: self.key.clone(), reason }.into()
    }

    fn id(&self) -> base_errors::Result<u64> {
        let bytes = self.bucket.get(ID)?.ok_or_else(|| self.damaged("id is missing"))?;
        read_uvarint(bytes).ok_or_else(|| self.damaged("id is no number"))
    }

    fn kind(&self) -> base_errors::Result<Kind> {
        match self.bucket.get(KIND)? {
            Some([1]) => Ok(Kind::View),
            Some([2]) => Ok(Kind::Active),
            Some([3]) => Ok(Kind::Committed),
            _ => Err(self.damaged("kind is unknown")),
        }
    }

    fn parent(&self) -> base_errors::Result<String> {
        let parent = self.bucket.get(PARENT)?.unwrap_or_default();
        String::from_utf8(parent.to_vec()).map_err(|_| self.damaged("parent is not UTF-8"))
    }

    fn time(&self, key: &[u8]) -> base_errors::Result<SystemTime> {
        match self.bucket.get(key)? {
            None => Ok(SystemTime::UNIX_EPOCH),
            Some(bytes) => read_time(bytes).ok_or_else(|| self.damaged("time is no time")),
        }
    }

    fn info(&self) -> base_errors::Result<Info> {
        let mut labels = Labels::new();
        if let Some(bucket) = self.bucket.bucket(LABELS)? {
            for entry in bucket.iter() {
                if let (key, Entry::Value(value)) = entry? {
                    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
                    labels.insert(text(key), text(value));
                }
            }
        }
        Ok(Info {
            kind: self.kind()?,
            name: self.key.clone(),
            parent: self.parent()?,
            labels,
            created_at: self.time(CREATED_AT)?,
            updated_at: self.time(UPDATED_AT)?,
        })
    }

    fn usage(&self) -> base_errors::Result<Usage> {
        let number = |key| -> base_errors::Result<u64> {
            let value = self.bucket.get(key)?;
            Ok(value.and_then(read_count).unwrap_or_default())
        };
        Ok(Usage { inodes: number(INODES)?, size: number(SIZE)? })
    }
}

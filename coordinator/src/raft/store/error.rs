//! Why a store cannot be used, and what is damage.

use std::{
    io,
    path::{Path, PathBuf},
};

use common::{codec::CodecError, id::MemberId};

/// The system's number for an error of a device: the same on all of Linux (errno(3)).
const EIO: i32 = 5;

/// Why a store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The store is damaged.
    #[error("the store at {} is damaged: {reason}", path.display())]
    Corrupt {
        /// Where it is.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A newer version of wharf has written the store.
    #[error("the store at {} cannot be read: {reason}", path.display())]
    Newer {
        /// Where it is.
        path: PathBuf,
        /// What is not known here.
        reason: String,
    },
    /// The store belongs to another member.
    #[error("the store at {} belongs to member {owner}, not {me}", path.display())]
    Foreign {
        /// Where it is.
        path: PathBuf,
        /// Whose it is.
        owner: MemberId,
        /// Who asked.
        me: MemberId,
    },
    /// The store cannot be read or written.
    #[error("the store at {} cannot be used: {reason}", path.display())]
    Failed {
        /// Where it is.
        path: PathBuf,
        /// What the system says.
        reason: String,
    },
}

impl StoreError {
    /// Why something stored at a path cannot be read by the system. A disk that has lost it is damage.
    pub fn of_reading(path: &Path, error: &io::Error) -> StoreError {
        let (path, reason) = (path.to_owned(), error.to_string());
        match error.raw_os_error() {
            Some(EIO) => StoreError::Corrupt { path, reason },
            _ => StoreError::Failed { path, reason },
        }
    }

    /// Why a part of what is stored at a path cannot be read.
    pub fn unreadable(path: &Path, what: &str, error: CodecError) -> StoreError {
        let (path, reason) = (path.to_owned(), format!("{what}: {error}"));
        match error {
            CodecError::Newer(_) | CodecError::Version { .. } => StoreError::Newer { path, reason },
            _ => StoreError::Corrupt { path, reason },
        }
    }
}

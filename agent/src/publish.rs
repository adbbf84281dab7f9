//! Values that others follow.

use tokio::sync::watch;

/// Puts a value in the place of the last one; nobody is woken if they are equal.
pub(crate) fn publish<T: PartialEq>(to: &watch::Sender<T>, value: T) {
    to.send_if_modified(|last| {
        let differs = *last != value;
        *last = value;
        differs
    });
}

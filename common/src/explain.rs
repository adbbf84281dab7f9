//! Turns values of the API into sentences, for everything that shows them to people.

mod hosts;
mod plan;

pub use hosts::fate;
pub use plan::{change_lines, plan_lines, privilege};

/// A number and what is counted: `1 instance`, `3 instances`.
pub fn count(number: impl Into<u64>, one: &str) -> String {
    let number = number.into();
    format!("{number} {one}{}", if number == 1 { "" } else { "s" })
}

/// A list in prose: `a`, `a and b`, `a, b and c`. Of a long list, the rest is counted.
pub fn list<T: ToString>(items: &[T]) -> String {
    const MOST: usize = 6;
    let mut texts: Vec<String> = items.iter().take(MOST).map(ToString::to_string).collect();
    if items.len() > MOST {
        texts.push(format!("{} more", items.len() - MOST));
    }
    match texts.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, others)) => format!("{} and {last}", others.join(", ")),
        None => String::new(),
    }
}

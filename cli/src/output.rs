//! Output of the command line: data on stdout, everything else on stderr.

use std::io::{IsTerminal, Write};

use comfy_table::{ContentArrangement, Table, presets};
use common::error::{Code, Problem};
use serde::Serialize;

use crate::args::Format;

/// Whether stderr may be coloured.
pub fn colour() -> bool {
    let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    set("CLICOLOR_FORCE") || (std::io::stderr().is_terminal() && !set("NO_COLOR") && !dumb)
}

/// Prints a problem on stderr: what failed, why, and how to fix it.
pub fn problem(problem: &Problem) {
    let (on, off) = if colour() { ("\x1b[31m", "\x1b[0m") } else { ("", "") };
    let text = problem.to_string();
    let (first, rest) = text.split_once('\n').unwrap_or((&text, ""));
    eprintln!("{on}✗{off} {first}");
    if !rest.is_empty() {
        eprintln!("{rest}");
    }
}

/// Prints a message for people on stderr, so that stdout holds only data.
pub fn note(text: impl AsRef<str>) {
    eprintln!("{}", text.as_ref());
}

/// The exit code for a problem. Scripts rely on these numbers, so they must not change.
pub fn exit_code(code: Code) -> u8 {
    match code {
        Code::InvalidRequest | Code::ComposeInvalid | Code::TooLarge | Code::TokenMalformed => 2,
        Code::NotPlaceable => 3,
        Code::RolloutFailed | Code::UpgradeFailed => 4,
        Code::NotFound => 5,
        Code::Conflict | Code::MemberRefused | Code::TooOld | Code::OtherCluster => 6,
        Code::Denied
        | Code::HostRemoved
        | Code::TokenUnknown
        | Code::TokenExpired
        | Code::TokenRevoked
        | Code::TokenUsedUp
        | Code::AddressNotAllowed => 7,
        Code::Unauthenticated => 8,
        Code::Unreachable => 9,
        Code::NoLeader => 10,
        Code::ResultUnknown => 11,
        _ => 1,
    }
}

/// A list that prints as a table for people, or in full for programs.
pub struct Rows<'a> {
    /// The column headings; wide tables show all of them, normal ones the first `narrow`.
    pub head: &'a [&'a str],
    /// The number of columns in a normal table.
    pub narrow: usize,
    /// The rows, each as long as `head`. The first column is the name.
    pub rows: Vec<Vec<String>>,
}

/// Prints a list in the chosen format.
pub fn list<T: Serialize>(format: Format, data: &T, rows: Rows<'_>) {
    match format {
        Format::Json | Format::Yaml => value(format, data),
        Format::Name => rows.rows.iter().for_each(|row| line(&row[0])),
        Format::Table | Format::Wide => {
            let columns = if format == Format::Wide { rows.head.len() } else { rows.narrow };
            let mut table = Table::new();
            table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
            table.set_header(&rows.head[..columns]);
            for row in &rows.rows {
                table.add_row(&row[..columns]);
            }
            for text in table.to_string().lines() {
                line(text.trim_end());
            }
        }
    }
}

/// Prints a value as YAML if that is the chosen format, else as JSON.
pub fn value<T: Serialize>(format: Format, data: &T) {
    let text = match format {
        Format::Yaml => serde_norway::to_string(data).unwrap_or_else(|error| error.to_string()),
        _ => serde_json::to_string_pretty(data).unwrap_or_else(|error| error.to_string()),
    };
    line(text.trim_end());
}

/// Prints a line of data. If the reader has gone (`| head`), the program exits quietly.
pub fn line(text: &str) {
    if writeln!(std::io::stdout(), "{text}").is_err() {
        std::process::exit(0);
    }
}

/// Asks a yes-or-no question. Without a terminal it is an error, unless `yes` is set.
pub fn confirm(question: &str, yes: bool) -> Result<bool, Problem> {
    if yes {
        return Ok(true);
    }
    if !std::io::stdin().is_terminal() {
        return Err(Problem::new(
            Code::InvalidRequest,
            "Nothing was done: the command needs an answer, and there is no terminal",
        )
        .why(question.to_owned())
        .fix("To answer yes, add -y"));
    }
    eprint!("{question} [y/N] ");
    let mut answer = String::new();
    let read = std::io::stdin().read_line(&mut answer);
    Ok(read.is_ok() && matches!(answer.trim(), "y" | "Y" | "yes"))
}

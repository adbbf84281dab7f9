use proptest::prelude::*;

use super::*;

fn surroundings() -> BTreeMap<String, String> {
    [("SHELL_SAYS".to_owned(), "from shell".to_owned()), ("BOTH".to_owned(), "shell".to_owned())].into()
}

fn read(text: &str) -> String {
    let found = parse(text, Format::Compose, &surroundings()).unwrap_or_else(|error| panic!("{text:?}: {error}"));
    let told = |(key, value): (&String, &Option<String>)| match value {
        Some(value) => format!("{key}=[{value}]"),
        None => key.clone(),
    };
    found.values.iter().map(told).collect::<Vec<_>>().join(" ")
}

#[test]
fn values_are_read_as_compose_documents_them() {
    let cases = [
        ("VAR=VAL", "VAR=[VAL]"),
        ("VAR = VAL  ", "VAR=[VAL]"),
        ("VAR: VAL", "VAR=[VAL]"),
        ("export VAR=VAL", "VAR=[VAL]"),
        ("exported=1", "exported=[1]"),
        ("VAR=VAL # comment", "VAR=[VAL]"),
        ("VAR=VAL# not a comment", "VAR=[VAL# not a comment]"),
        ("VAR=\"VAL # not a comment\"", "VAR=[VAL # not a comment]"),
        ("PW=\"a # b\" # note", "PW=[a # b]"),
        ("VAR='$OTHER'", "VAR=[$OTHER]"),
        ("VAR='${OTHER}'", "VAR=[${OTHER}]"),
        ("VAR='Let\\'s go!'", "VAR=[Let's go!]"),
        ("VAR=\"{\\\"hello\\\": \\\"json\\\"}\"", "VAR=[{\"hello\": \"json\"}]"),
        ("VAR=\"some\\tvalue\"", "VAR=[some\tvalue]"),
        ("VAR='some\\tvalue'", "VAR=[some\\tvalue]"),
        ("VAR=some\\tvalue", "VAR=[some\\tvalue]"),
        ("VAR=\"a\\\\nb\\r\\n\"", "VAR=[a\\nb\r\n]"),
        ("VAR=\"\\$A and $$B and \\x\"", "VAR=[$A and $B and \\x]"),
        ("EMPTY=", "EMPTY=[]"),
        ("EMPTY=   # note", "EMPTY=[]"),
        ("EMPTY=\"\"", "EMPTY=[]"),
        ("A=1=2", "A=[1=2]"),
        ("\u{feff}A=1", "A=[1]"),
        ("A=1\r\nB=2\r\n", "A=[1] B=[2]"),
        ("\n  # note\n\n\tA=1\n", "A=[1]"),
        ("SHELL_SAYS", "SHELL_SAYS=[from shell]"),
        ("SHELL_SAYS # note\nNOBODY", "NOBODY SHELL_SAYS=[from shell]"),
        ("BOTH=file", "BOTH=[file]"),
        ("A=1\nA=2\nB=$A", "A=[2] B=[2]"),
        ("A=1\nB=${A:-x}-${BOTH}-${NO:-y}", "A=[1] B=[1-shell-y]"),
        ("BOTH=file\nC=$BOTH", "BOTH=[file] C=[shell]"),
        ("PW=s\nURL=postgres://${PW}@db/", "PW=[s] URL=[postgres://s@db/]"),
        ("A.b-c[0]=1", "A.b-c[0]=[1]"),
        (
            "PEM=\"-----BEGIN-----\r\nabc\ndef\n-----END-----\" # a key\nNEXT=1",
            "NEXT=[1] PEM=[-----BEGIN-----\nabc\ndef\n-----END-----]",
        ),
        ("A='one\ntwo'", "A=[one\ntwo]"),
    ];
    for (text, expected) in cases {
        assert_eq!(read(text), expected, "{text:?}");
    }
}

#[test]
fn a_refusal_names_the_line_and_nothing_of_it() {
    let cases = [
        ("A=1\nsecret value\n", "line 2: it does not start with the name of a variable"),
        ("=secret", "line 1: it does not start"),
        ("sec ret=1", "line 1: it does not start"),
        ("{\"secret\": 1}", "line 1: it does not start"),
        ("A=1\n\nB=\"secret\nmore", "line 3: the quote \" that starts here is not closed"),
        ("A='secret", "line 1: the quote ' that starts here"),
        ("A=\"secret\" secret", "line 1: only a comment may follow the closing quote"),
        ("A=\"x\ny\"secret", "line 2: only a comment may follow"),
        ("A=secret${", "line 1: a ${ is not closed"),
        ("A=1\nB=${NO:?set it}", "line 2: the variable NO is not set: set it"),
    ];
    for (text, expected) in cases {
        let found = parse(text, Format::Compose, &surroundings()).expect_err(text).to_string();
        assert!(found.starts_with(expected) && !found.contains("secret"), "{text:?}: {found}");
    }
}

#[test]
fn raw_values_are_taken_as_they_are() {
    let found = parse("A=\"x\" # y $Z\nB='\nC=\n# no\n", Format::Raw, &surroundings()).expect("is read");
    let values: Vec<_> = found.values.iter().map(|(k, v)| format!("{k}={}", v.as_deref().unwrap_or("?"))).collect();
    assert_eq!(values, ["A=\"x\" # y $Z", "B='", "C="]);
}

#[test]
fn what_a_file_sets_goes_before_what_earlier_files_have_set() {
    let earlier = BTreeMap::from([("A".to_owned(), "earlier".to_owned()), ("B".to_owned(), "earlier".to_owned())]);
    let read =
        |text| parse_after(text, Format::Compose, &BTreeMap::from([("S".to_owned(), "shell".to_owned())]), &earlier);
    let found = read("A=own\nS=own\nX=$A $B $S\n").expect("is read");
    assert_eq!(found.values["X"].as_deref(), Some("own earlier shell"));
}

#[test]
fn what_is_not_set_is_told_with_its_line() {
    let found = parse("A=1\nB=$NO\nC=${NO}${X:-y}$A\n", Format::Compose, &surroundings()).expect("is read");
    assert_eq!(found.unset, [("NO".to_owned(), 2)].into());
}

#[test]
fn variables_that_grow_out_of_one_another_are_refused() {
    let mut text = format!("A0={}\n", "x".repeat(1000));
    for number in 1..100 {
        text.push_str(&format!("A{number}=$A0$A{}\n", number - 1));
    }
    assert!(parse(&text, Format::Compose, &surroundings()).is_ok(), "as long as it is no more than may be");
    text.push_str(&format!("B={}\n", "$A99".repeat(8)));
    for number in 0..100 {
        text.push_str(&format!("B{number}=$B\n"));
    }
    let refused = parse(&text, Format::Compose, &surroundings()).expect_err("is refused").to_string();
    assert!(refused.contains("more than 16777216 bytes with their variables replaced"), "{refused}");
}

proptest! {
    #[test]
    fn no_text_is_too_much(text in "[\"'\\\\$\\{\\}=:# \n\r\tA-Za-z0-9]{0,80}") {
        let _ = parse(&text, Format::Compose, &surroundings());
        let _ = parse(&text, Format::Raw, &surroundings());
    }

    /// A value in double quotes with its escapes is that value.
    #[test]
    fn quoted_values_come_back(value in "[ -~\n\t]{0,60}") {
        let escaped = value.replace('\\', "\\\\").replace('"', "\\\"").replace('$', "\\$");
        let found = parse(&format!("A=\"{escaped}\""), Format::Compose, &surroundings()).expect("is read");
        prop_assert_eq!(found.values.get("A"), Some(&Some(value)));
    }
}

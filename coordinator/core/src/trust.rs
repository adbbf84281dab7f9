//! What the leader does next about the cluster's own keys: a pure function of the state, so that a new leader goes on
//! where the last one ended.

use crate::{
    State,
    command::SealedPlace,
    level,
    sealed::{self, KeyId},
    state::SealingChange,
};

/// Most bytes of sealed texts in one log entry; a single text may be larger.
const ENTRY: usize = 256 << 10;

/// The next step of the leader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// To seal the keys of the certificate authority, which lie open in the state.
    SealAuthority,
    /// To seal with a new key from now on: all members have it.
    UseSealingKey(KeyId),
    /// To seal these texts again.
    Reseal(Vec<SealedPlace>),
    /// To seal the passwords for registries that lie open.
    SealPasswords,
    /// To have the old sealing key removed.
    EndSealingKey(KeyId),
    /// To go on with the change of the root: all hosts have done their part.
    MoveRoot,
}

/// The next step; none if nothing is to be done, or others have to do something first.
pub fn next_step(state: &State) -> Option<Step> {
    if state.level() < level::TRUST {
        return None;
    }
    let identity = state.identity()?;
    if state.sealing_key().is_none() {
        return sealed::is_open(identity.authority.key.expose()).then_some(Step::SealAuthority);
    }
    if state.open_passwords().next().is_some() {
        return Some(Step::SealPasswords);
    }
    let of_sealing = match state.sealing_change() {
        Some(SealingChange::Share { next, .. }) if state.without_new_key().is_empty() => {
            Some(Step::UseSealingKey(*next))
        }
        Some(SealingChange::Reseal { old }) => {
            let places = some_old_texts(state);
            Some(if places.is_empty() { Step::EndSealingKey(*old) } else { Step::Reseal(places) })
        }
        Some(SealingChange::Share { .. }) | None => None,
    };
    let moves = state.root_change().is_some() && state.holds_root_up(false).is_none();
    of_sealing.or_else(|| moves.then_some(Step::MoveRoot))
}

/// As many texts as one log entry may hold.
fn some_old_texts(state: &State) -> Vec<SealedPlace> {
    let mut bytes = 0;
    let mut places = Vec::new();
    for (place, text) in state.old_texts() {
        bytes += text.len();
        if bytes > ENTRY && !places.is_empty() {
            break;
        }
        places.push(place);
    }
    places
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use common::{
        assignment::RegistryCredentials,
        codec,
        file::{FileId, FileKind},
        id::MemberId,
        name::default_environment,
        secret::Secret,
    };

    use super::*;
    use crate::{
        Command, Outcome,
        command::{NewJoinToken, Resealed},
        sealed::{LOST, WITH_KEY, WITHOUT_KEY},
        state::Content,
        testing::{Fixture, TOKEN, admission, name},
    };

    const FIRST: KeyId = KeyId([1; 8]);
    const SECOND: KeyId = KeyId([2; 8]);

    fn text(key: KeyId, words: &str) -> Vec<u8> {
        [&[WITH_KEY][..], &key.0, words.as_bytes()].concat()
    }

    fn secret(number: usize) -> FileId {
        FileId {
            environment: default_environment(),
            stack: None,
            kind: FileKind::Secret,
            name: name(&format!("s{number}")),
        }
    }

    fn put(fixture: &mut Fixture, number: usize, text: Vec<u8>) -> Result<(), String> {
        let command = Command::PutFile { id: secret(number), content: Content::Sealed(Arc::from(text)) };
        match fixture.apply(command) {
            crate::Outcome::Rejected(problem) => Err(problem.to_string()),
            _ => Ok(()),
        }
    }

    /// Seals a text again as a leader would.
    fn again(fixture: &Fixture, place: SealedPlace, key: KeyId) -> Resealed {
        let (_, old) = fixture.cluster.old_texts().find(|(found, _)| *found == place).expect("it is old");
        Resealed { place, before: codec::hash(&old).expect("it is hashed"), text: text(key, "again").into() }
    }

    fn sealed_cluster() -> Fixture {
        let mut fixture = Fixture::of_hosts(1);
        assert_eq!(next_step(&fixture.cluster), None, "the fixture has no keys");
        let key = || Secret::new(text(FIRST, "key"));
        fixture.done(Command::SealAuthority { key: key(), join_key: key() });
        fixture
    }

    #[test]
    fn open_keys_are_sealed_once() {
        let mut fixture = sealed_cluster();
        assert_eq!(fixture.cluster.sealing_key(), Some(FIRST));
        let key = || Secret::new(text(SECOND, "key"));
        let refused = fixture.refused(Command::SealAuthority { key: key(), join_key: key() });
        assert!(refused.contains("sealed already"), "{refused}");
        let mut unsealed = Fixture::of_hosts(1);
        let open = || Secret::new(vec![0x30, 0x82]);
        let refused = unsealed.refused(Command::SealAuthority { key: open(), join_key: open() });
        assert!(refused.contains("both are sealed with one key"), "{refused}");
        let bytes = codec::encode(&fixture.cluster).expect("it is written");
        assert_eq!(codec::decode::<State>(&bytes).expect("it is read"), fixture.cluster);
    }

    #[test]
    fn a_key_is_used_when_all_members_have_it_and_gone_when_nothing_needs_it() {
        let mut fixture = sealed_cluster();
        fixture.done(Command::PutJoinToken(Box::new(NewJoinToken {
            id: common::token::TokenId([77; 5]),
            role: common::token::JoinRole::Coordinator,
            ..join_token()
        })));
        let joins = crate::command::Admission { token: common::token::TokenId([77; 5]), ..admission(2) };
        fixture.done(Command::Admit(Box::new(joins)));
        put(&mut fixture, 1, [&[WITHOUT_KEY][..], b"by the first key"].concat()).expect("it is set");
        put(&mut fixture, 2, text(FIRST, "x")).expect("it is set");
        put(&mut fixture, 3, text(SECOND, "x")).expect_err("no such key is in use");

        fixture.done(Command::RotateSealingKey { next: SECOND, member: MemberId(1) });
        assert_eq!((next_step(&fixture.cluster), fixture.cluster.without_new_key()), (None, vec![MemberId(2)]));
        let early = fixture.refused(Command::UseSealingKey(SECOND));
        assert!(early.contains("member 2 has not stored the new key"), "{early}");
        fixture.done(Command::HoldsSealingKey { member: MemberId(2), key: SECOND });
        assert_eq!(next_step(&fixture.cluster), Some(Step::UseSealingKey(SECOND)));
        fixture.done(Command::UseSealingKey(SECOND));
        put(&mut fixture, 3, text(FIRST, "late")).expect("its author was behind");

        let Some(Step::Reseal(places)) = next_step(&fixture.cluster) else { panic!("there are old texts") };
        assert_eq!(places.len(), 5, "{places:?}");
        let texts: Vec<Resealed> = places.into_iter().map(|place| again(&fixture, place, SECOND)).collect();
        // One is set again meanwhile, and one cannot be opened.
        put(&mut fixture, 2, text(SECOND, "newer")).expect("it is set");
        let old = fixture.refused(Command::EndSealingKey(FIRST));
        assert!(old.contains("4 texts are not sealed"), "{old}");
        let mut texts = texts;
        texts[0].text = [&[LOST][..], b"kept"].concat().into();
        fixture.done(Command::Reseal(texts));
        let newest = fixture.cluster.files()[&secret(2)].newest().expect("it is there").1.content.clone();
        assert_eq!(newest, Content::Sealed(text(SECOND, "newer").into()), "what has changed since stays");
        assert_eq!(next_step(&fixture.cluster), Some(Step::EndSealingKey(FIRST)));
        fixture.done(Command::EndSealingKey(FIRST));
        assert_eq!((next_step(&fixture.cluster), fixture.cluster.retired_keys()), (None, &[FIRST][..]));
        put(&mut fixture, 4, text(FIRST, "much too late")).expect_err("the key is gone");
        put(&mut fixture, 4, vec![WITHOUT_KEY, 0]).expect_err("so is the first form");
        let back = fixture.refused(Command::RotateSealingKey { next: FIRST, member: MemberId(1) });
        assert!(back.contains("not new"), "{back}");
    }

    fn join_token() -> NewJoinToken {
        NewJoinToken {
            id: TOKEN,
            secret: common::token::SecretHash([0; 32]),
            role: common::token::JoinRole::Agent,
            expires_at: common::time::Timestamp(u64::MAX),
            max_uses: 100,
            labels: Default::default(),
            from: None,
        }
    }

    #[test]
    fn passwords_for_registries_are_sealed_also_those_that_lay_open_before() {
        let registry = || "registry.example".to_owned();
        let put = |fixture: &mut Fixture, password: Secret<String>| {
            let credentials = RegistryCredentials { registry: registry(), username: "ann".into(), password };
            fixture.apply(Command::PutRegistry(credentials))
        };
        let place = || SealedPlace::Password { registry: registry() };
        let open = || Secret::new("mule".to_owned());
        let mut fixture = Fixture::of_hosts(1);
        assert!(matches!(put(&mut fixture, open()), Outcome::Done { .. }), "no key seals yet");
        let key = || Secret::new(text(FIRST, "key"));
        fixture.done(Command::SealAuthority { key: key(), join_key: key() });
        assert_eq!(next_step(&fixture.cluster), Some(Step::SealPasswords));
        let before = codec::hash(&b"mule".as_slice()).expect("it is hashed");
        let sealed: Arc<[u8]> = text(FIRST, "sealed").into();
        fixture.done(Command::Reseal(vec![Resealed { place: place(), before, text: sealed.clone() }]));
        let stored = |fixture: &Fixture| sealed::of_password(&fixture.cluster.registries()[&registry()].password);
        assert_eq!((stored(&fixture).as_deref(), next_step(&fixture.cluster)), (Some(&*sealed), None));
        assert!(matches!(put(&mut fixture, open()), Outcome::Rejected(_)), "one that lies open is refused now");

        fixture.done(Command::RotateSealingKey { next: SECOND, member: MemberId(1) });
        fixture.done(Command::UseSealingKey(SECOND));
        let Some(Step::Reseal(places)) = next_step(&fixture.cluster) else { panic!("there are old texts") };
        assert!(places.contains(&place()), "{places:?}");
        let newer = sealed::in_place_of_password(&text(SECOND, "newer"));
        assert!(matches!(put(&mut fixture, newer.clone()), Outcome::Done { .. }));
        fixture.done(Command::Reseal(vec![Resealed { place: place(), before, text: text(SECOND, "late").into() }]));
        assert_eq!(stored(&fixture), sealed::of_password(&newer), "what has changed since stays");
    }

    #[test]
    fn an_entry_holds_so_much_and_at_least_one_text() {
        let mut fixture = sealed_cluster();
        for number in 0..10 {
            put(&mut fixture, number, text(FIRST, &"x".repeat(ENTRY / 4))).expect("it is set");
        }
        fixture.done(Command::RotateSealingKey { next: SECOND, member: MemberId(1) });
        fixture.done(Command::UseSealingKey(SECOND));
        let mut entries = 0;
        while let Some(Step::Reseal(places)) = next_step(&fixture.cluster) {
            assert!((1..=4).contains(&places.len()) || entries > 2, "{places:?}");
            let texts = places.into_iter().map(|place| again(&fixture, place, SECOND)).collect();
            fixture.done(Command::Reseal(texts));
            entries += 1;
        }
        assert!((4..=5).contains(&entries), "{entries}");
    }
}

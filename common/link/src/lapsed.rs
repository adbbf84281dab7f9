//! Certificates that have ended: a host that was off for long still has its key, and gets a new certificate for it.
//!
//! A certificate that ended less than [`RENEWABLE`] ago lets a peer in to renew it, and for nothing else
//! ([`common::wire::Open::allowed_for`]). That the host was not removed is checked in the state.

use std::{sync::Arc, time::Duration};

use common::time::{Span, Timestamp};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    pki_types::{CertificateDer, UnixTime},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};

use crate::identity::validity_of;

/// How long after its end a certificate can be renewed.
pub const RENEWABLE: Span = Span::seconds(365 * 86_400);

/// Accepts what another verifier accepts, and also what that one would have accepted before the certificate's end.
#[derive(Debug)]
pub(crate) struct AlsoLapsed(pub Arc<dyn ClientCertVerifier>);

/// Whether a certificate has ended.
pub fn has_ended(certificate: &[u8], now: Timestamp) -> bool {
    validity_of(certificate).is_ok_and(|(_, ends)| ends < now)
}

/// The last moment at which a certificate was valid, if it ended not too long ago.
fn last_moment(certificate: &[u8], now: UnixTime) -> Option<UnixTime> {
    let (_, ends) = validity_of(certificate).ok()?;
    let now = Timestamp(now.as_secs().saturating_mul(1000));
    let seconds = (ends.0 / 1000).checked_sub(1)?;
    (now.since(ends) <= RENEWABLE).then(|| UnixTime::since_unix_epoch(Duration::from_secs(seconds)))
}

impl ClientCertVerifier for AlsoLapsed {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.0.verify_client_cert(certificate, chain, now);
        match &verified {
            Err(Error::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. })) => {
                match last_moment(certificate, now) {
                    Some(then) => self.0.verify_client_cert(certificate, chain, then),
                    None => verified,
                }
            }
            _ => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use common::id::{ClusterId, MemberId};
    use rustls::{RootCertStore, server::WebPkiClientVerifier};

    use super::*;
    use crate::{
        identity::{Certified, HOST_CERTIFICATE_DAYS, make_key, make_request, make_root, sign},
        provider,
    };

    const CLUSTER: ClusterId = ClusterId([3; 10]);
    const BORN: Timestamp = Timestamp(1_795_000_000_000);

    fn verifier(root: &Certified) -> AlsoLapsed {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from(root.certificate.clone())).expect("a root");
        AlsoLapsed(WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider()).build().expect("is built"))
    }

    #[test]
    fn a_certificate_opens_the_door_for_a_year_after_its_end() {
        let (root, other) = (make_root(CLUSTER, BORN).expect("a root"), make_root(CLUSTER, BORN).expect("a root"));
        let request = make_request(&make_key().expect("a key")).expect("a request");
        let of = |root: &Certified, member| sign(root, CLUSTER, &request, member, BORN).expect("it is signed");
        let days = |days: i64| UnixTime::since_unix_epoch(Duration::from_secs(BORN.0 / 1000 + days as u64 * 86_400));
        let accepts = |certificate: Vec<u8>, at| {
            verifier(&root).verify_client_cert(&CertificateDer::from(certificate), &[], at).is_ok()
        };
        for member in [None, Some(MemberId(2))] {
            let accepted = [0, 29, 31, 200, 30 + 364, 30 + 366, 4000].map(|day| accepts(of(&root, member), days(day)));
            assert_eq!(accepted, [true, true, true, true, true, false, false]);
        }
        assert!(!accepts(of(&other, None), days(1)) && !accepts(of(&other, None), days(200)), "another root's");
        let ended = Timestamp(BORN.0 + 86_400_000 * HOST_CERTIFICATE_DAYS as u64 + 1000);
        assert!(has_ended(&of(&root, None), ended) && !has_ended(&of(&root, None), BORN));
    }
}

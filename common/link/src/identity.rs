//! The cluster's certificate authority, and the certificates that it issues.
//!
//! A certificate identifies its holder by DNS names below the cluster's own: `<host>.host.…` for every host, and also
//! `<member>.member.…` and `coordinator.…` for coordinators. The authority uses only the key of a request and writes
//! the names itself.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
    time::Duration,
};

use crate::provider;
use common::{
    id::{ClusterId, HostId, MemberId},
    secret::Secret,
    time::Timestamp,
    token::Pin,
    wire::PeerIdentity,
};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use ring::digest;
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, CertificateSigningRequestDer, PrivatePkcs8KeyDer, UnixTime},
    server::WebPkiClientVerifier,
};
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer, GeneralName, ParsedExtension, X509Certificate, X509CertificationRequest};

/// The validity of a host's certificate, in days.
pub const HOST_CERTIFICATE_DAYS: i64 = 30;
const ROOT_DAYS: i64 = 365 * 20;
/// Certificates start in the past, to tolerate clocks that are behind.
const BACKDATE_HOURS: i64 = 1;

/// Why a certificate or request is unusable.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A certificate or key cannot be created or signed.
    #[error("cannot make a certificate: {0}")]
    Make(#[from] rcgen::Error),
    /// A certificate or request cannot be parsed.
    #[error("malformed {what}: {reason}")]
    Malformed {
        /// The kind of input.
        what: &'static str,
        /// Why it cannot be parsed.
        reason: String,
    },
    /// The request is not signed by its own key, or the kind of key is not allowed.
    #[error("the request is not signed by an ECDSA P-256 or Ed25519 key of its own")]
    BadRequest,
    /// The certificate names no host of this cluster.
    #[error("the certificate names no host of the cluster {0}")]
    Foreign(ClusterId),
}

/// A private key and its certificate.
#[derive(Debug, Clone, PartialEq)]
pub struct Certified {
    /// The certificate (DER).
    pub certificate: Vec<u8>,
    /// The private key (PKCS #8).
    pub key: Secret<Vec<u8>>,
}

/// Everything that a process needs to prove its identity and to verify others.
#[derive(Debug, Clone, PartialEq)]
pub struct Credentials {
    /// The cluster that the certificates belong to.
    pub cluster: ClusterId,
    /// The holder's host and member number.
    pub identity: PeerIdentity,
    /// The holder's certificate and key.
    pub own: Certified,
    /// The cluster's root certificates that are trusted (DER).
    pub roots: Vec<Vec<u8>>,
    /// A root's certificate that another root signed (DER), for those that trust only the other one.
    pub cross: Option<Vec<u8>>,
}

/// The DNS name in coordinators' certificates, which every client verifies.
pub fn coordinator_name(cluster: ClusterId) -> String {
    format!("coordinator.{cluster}.wharf")
}

fn days_from(now: Timestamp, days: i64) -> OffsetDateTime {
    let seconds = i64::try_from(now.0 / 1000).unwrap_or(0).saturating_add(days * 86_400);
    OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

fn validity(params: &mut CertificateParams, now: Timestamp, days: i64) {
    params.not_before = days_from(now, 0) - time::Duration::hours(BACKDATE_HOURS);
    params.not_after = days_from(now, days);
}

/// Creates the root of a new cluster.
pub fn make_root(cluster: ClusterId, now: Timestamp) -> Result<Certified, IdentityError> {
    let key = KeyPair::generate()?;
    certified(root_params(cluster, now)?.self_signed(&key)?, &key)
}

fn root_params(cluster: ClusterId, now: Timestamp) -> Result<CertificateParams, IdentityError> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name.push(DnType::CommonName, format!("wharf {cluster}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    validity(&mut params, now, ROOT_DAYS);
    Ok(params)
}

/// A new root's certificate as an old root signs it: who trusts the old one believes certificates of the new one with it.
pub fn cross_sign(
    old: &Certified,
    new: &Certified,
    cluster: ClusterId,
    now: Timestamp,
) -> Result<Vec<u8>, IdentityError> {
    let issuer = Issuer::from_ca_cert_der(&CertificateDer::from(old.certificate.as_slice()), load_key(&old.key)?)?;
    let mut params = root_params(cluster, now)?;
    params.use_authority_key_identifier_extension = true;
    Ok(params.signed_by(&load_key(&new.key)?, &issuer)?.der().to_vec())
}

/// Whether a root issued a certificate, also one that has ended.
pub fn is_issued_by(certificate: &[u8], root: &[u8]) -> bool {
    let verified = || {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from(root.to_vec())).ok()?;
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider()).build().ok()?;
        let (begins, _) = validity_of(certificate).ok()?;
        let then = UnixTime::since_unix_epoch(Duration::from_secs(begins.0 / 1000 + 1));
        // A root may be younger than the certificate that it is compared with, but not than one that it issued.
        verifier.verify_client_cert(&CertificateDer::from(certificate.to_vec()), &[], then).ok()
    };
    verified().is_some()
}

/// Creates the self-signed certificate of the join key. Clients pin it and never verify a chain.
pub fn make_join_certificate(now: Timestamp) -> Result<Certified, IdentityError> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(vec!["join.wharf".to_owned()])?;
    params.distinguished_name.push(DnType::CommonName, "wharf join");
    params.subject_alt_names.push(SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST)));
    params.subject_alt_names.push(SanType::IpAddress(IpAddr::V6(Ipv6Addr::LOCALHOST)));
    validity(&mut params, now, ROOT_DAYS);
    certified(params.self_signed(&key)?, &key)
}

fn certified(certificate: rcgen::Certificate, key: &KeyPair) -> Result<Certified, IdentityError> {
    Ok(Certified { certificate: certificate.der().to_vec(), key: Secret::new(key.serialize_der()) })
}

/// Creates a host's private key, which never leaves the host.
pub fn make_key() -> Result<Secret<Vec<u8>>, IdentityError> {
    Ok(Secret::new(KeyPair::generate()?.serialize_der()))
}

fn load_key(key: &Secret<Vec<u8>>) -> Result<KeyPair, IdentityError> {
    Ok(KeyPair::try_from(&PrivatePkcs8KeyDer::from(key.expose().as_slice()))?)
}

/// Derives the host id from a host's key.
pub fn host_of_key(key: &Secret<Vec<u8>>) -> Result<HostId, IdentityError> {
    use rcgen::PublicKeyData;
    Ok(host_of_spki(&load_key(key)?.subject_public_key_info()))
}

fn host_of_spki(spki: &[u8]) -> HostId {
    let hash = digest::digest(&digest::SHA256, spki);
    let mut id = [0u8; 10];
    id.copy_from_slice(&hash.as_ref()[..10]);
    HostId(id)
}

/// Creates a certificate request for `key` (DER).
pub fn make_request(key: &Secret<Vec<u8>>) -> Result<Vec<u8>, IdentityError> {
    let params = CertificateParams::new(Vec::new())?;
    Ok(params.serialize_request(&load_key(key)?)?.der().to_vec())
}

/// Checks that a request is signed by its own key, and derives the host id from that key.
pub fn host_of_request(request: &[u8]) -> Result<HostId, IdentityError> {
    let malformed = |reason: String| IdentityError::Malformed { what: "certificate request", reason };
    let (rest, parsed) = X509CertificationRequest::from_der(request).map_err(|e| malformed(e.to_string()))?;
    if !rest.is_empty() {
        return Err(malformed("bytes follow after the request".into()));
    }
    let spki = &parsed.certification_request_info.subject_pki;
    // Ed25519 keys and points on P-256 are this short; RSA keys and points on other curves are longer.
    if spki.raw.len() > 91 {
        return Err(IdentityError::BadRequest);
    }
    let host = host_of_spki(spki.raw);
    let checked = CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(request));
    checked.map(|_| host).map_err(|_| IdentityError::BadRequest)
}

/// Signs a host's request, of which it uses only the key.
pub fn sign(
    root: &Certified,
    cluster: ClusterId,
    request: &[u8],
    member: Option<MemberId>,
    now: Timestamp,
) -> Result<Vec<u8>, IdentityError> {
    let host = host_of_request(request)?;
    let mut asked = CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(request))?;
    let mut names = vec![format!("{host}.host.{cluster}.wharf")];
    if let Some(member) = member {
        names.push(format!("{member}.member.{cluster}.wharf"));
        names.push(coordinator_name(cluster));
    }
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name.push(DnType::CommonName, host.to_string());
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    if member.is_some() {
        params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
    }
    params.use_authority_key_identifier_extension = true;
    validity(&mut params, now, HOST_CERTIFICATE_DAYS);
    asked.params = params;
    let issuer = Issuer::from_ca_cert_der(&CertificateDer::from(root.certificate.as_slice()), load_key(&root.key)?)?;
    Ok(asked.signed_by(&issuer)?.der().to_vec())
}

/// The identity in a certificate of this cluster, whose chain has already been verified.
pub fn identity_of(certificate: &[u8], cluster: ClusterId) -> Result<PeerIdentity, IdentityError> {
    let parsed = parse_certificate(certificate)?;
    let suffix = format!(".{cluster}.wharf");
    let (mut host, mut member) = (None, None);
    for name in dns_names(&parsed) {
        let Some(label) = name.strip_suffix(&suffix) else { continue };
        match label.split_once('.') {
            Some((id, "host")) => host = id.parse().ok(),
            Some((id, "member")) => member = id.parse().ok().map(MemberId),
            _ => {}
        }
    }
    host.map(|host| PeerIdentity { host, member }).ok_or(IdentityError::Foreign(cluster))
}

/// The cluster in a coordinator's certificate.
pub fn cluster_of(certificate: &[u8]) -> Result<ClusterId, IdentityError> {
    let parsed = parse_certificate(certificate)?;
    let named =
        dns_names(&parsed).find_map(|name| name.strip_prefix("coordinator.")?.strip_suffix(".wharf")?.parse().ok());
    named.ok_or_else(|| IdentityError::Malformed { what: "certificate", reason: "it is not a coordinator's".into() })
}

/// The cluster in a root certificate's name, `wharf <cluster>`.
pub fn cluster_of_root(certificate: &[u8]) -> Result<ClusterId, IdentityError> {
    let parsed = parse_certificate(certificate)?;
    let name = parsed.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
    let cluster = name.and_then(|name| name.strip_prefix("wharf ")?.parse().ok());
    cluster.ok_or_else(|| IdentityError::Malformed { what: "certificate", reason: "it is no cluster's root".into() })
}

/// The start and the end of a certificate's validity.
pub fn validity_of(certificate: &[u8]) -> Result<(Timestamp, Timestamp), IdentityError> {
    let parsed = parse_certificate(certificate)?;
    let at = |time: x509_parser::time::ASN1Time| Timestamp(time.timestamp().max(0).unsigned_abs() * 1000);
    Ok((at(parsed.validity().not_before), at(parsed.validity().not_after)))
}

/// The pin of a certificate's public key.
pub fn pin_of(certificate: &[u8]) -> Result<Pin, IdentityError> {
    Ok(Pin::of(parse_certificate(certificate)?.public_key().raw))
}

fn parse_certificate(certificate: &[u8]) -> Result<X509Certificate<'_>, IdentityError> {
    X509Certificate::from_der(certificate)
        .map(|(_, parsed)| parsed)
        .map_err(|e| IdentityError::Malformed { what: "certificate", reason: e.to_string() })
}

fn dns_names<'a>(certificate: &'a X509Certificate<'_>) -> impl Iterator<Item = &'a str> {
    certificate
        .extensions()
        .iter()
        .filter_map(|extension| match extension.parsed_extension() {
            ParsedExtension::SubjectAlternativeName(names) => Some(&names.general_names),
            _ => None,
        })
        .flatten()
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(*name),
            _ => None,
        })
}

/// The HMAC by which a host proves that it has a token without sending the token's secret.
pub fn join_proof(secret: &common::token::SecretHash, request: &[u8], cluster: ClusterId, nonce: &str) -> [u8; 32] {
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &secret.0);
    let mut context = ring::hmac::Context::with_key(&key);
    context.update(digest::digest(&digest::SHA256, request).as_ref());
    context.update(&cluster.0);
    context.update(nonce.as_bytes());
    let mut proof = [0u8; 32];
    proof.copy_from_slice(context.sign().as_ref());
    proof
}

/// `N` bytes from the kernel's random generator.
pub fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0u8; N];
    ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut bytes)
        .expect("the kernel gives random bytes");
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_trusts_the_old_root_believes_the_new_one_by_its_cross_certificate() {
        let (old, new) = (make_root(CLUSTER, NOW).expect("a root"), make_root(CLUSTER, NOW).expect("a root"));
        let request = make_request(&make_key().expect("a key")).expect("a request");
        let leaf = sign(&new, CLUSTER, &request, None, NOW).expect("signs");
        assert!(is_issued_by(&leaf, &new.certificate) && !is_issued_by(&leaf, &old.certificate));
        let cross = cross_sign(&old, &new, CLUSTER, NOW).expect("signs");
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from(old.certificate.clone())).expect("a root");
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider()).build().expect("builds");
        let at = UnixTime::since_unix_epoch(Duration::from_secs(NOW.0 / 1000));
        let verify = |chain: &[CertificateDer<'_>]| {
            verifier.verify_client_cert(&CertificateDer::from(leaf.clone()), chain, at).is_ok()
        };
        assert!(verify(&[CertificateDer::from(cross)]) && !verify(&[]));
        assert_eq!(pin_of(&cross_sign(&old, &new, CLUSTER, NOW).expect("signs")).ok(), pin_of(&new.certificate).ok());
    }

    const NOW: Timestamp = Timestamp(1_795_000_000_000);
    const CLUSTER: ClusterId = ClusterId([3; 10]);

    #[test]
    fn a_certificate_names_what_the_authority_decided() {
        let root = make_root(CLUSTER, NOW).expect("makes a root");
        let key = make_key().expect("makes a key");
        let request = make_request(&key).expect("makes a request");
        let host = host_of_key(&key).expect("reads the key");
        assert_eq!(host_of_request(&request).expect("reads the request"), host);
        let agent = sign(&root, CLUSTER, &request, None, NOW).expect("signs");
        assert_eq!(identity_of(&agent, CLUSTER).expect("names the host"), PeerIdentity { host, member: None });
        assert!(cluster_of(&agent).is_err());
        let member = sign(&root, CLUSTER, &request, Some(MemberId(7)), NOW).expect("signs");
        assert_eq!(
            identity_of(&member, CLUSTER).expect("names the host"),
            PeerIdentity { host, member: Some(MemberId(7)) }
        );
        assert_eq!(cluster_of(&member).expect("names the cluster"), CLUSTER);
        assert!(identity_of(&member, ClusterId([4; 10])).is_err(), "another cluster's certificate is foreign");
        let (begins, ends) = validity_of(&member).expect("has a validity");
        assert!(begins < NOW && ends.since(NOW) == common::time::Span::seconds(30 * 86_400));
    }

    #[test]
    fn a_request_that_asks_for_more_gets_a_plain_certificate() {
        let root = make_root(CLUSTER, NOW).expect("makes a root");
        let key = KeyPair::generate().expect("makes a key");
        let mut params =
            CertificateParams::new(vec![coordinator_name(CLUSTER), "1.member.x.wharf".to_owned()]).expect("names");
        params.distinguished_name.push(DnType::CommonName, "admin");
        let request = params.serialize_request(&key).expect("makes a request").der().to_vec();
        let signed = sign(&root, CLUSTER, &request, None, NOW).expect("signs the key alone");
        assert_eq!(identity_of(&signed, CLUSTER).expect("names the host").member, None);
        assert!(cluster_of(&signed).is_err());
    }

    #[test]
    fn a_damaged_request_is_refused_or_still_means_its_own_key() {
        let request = make_request(&make_key().expect("makes a key")).expect("makes a request");
        let host = host_of_request(&request).expect("is well-formed");
        for at in 0..request.len() {
            let mut broken = request.clone();
            broken[at] ^= 0x40;
            // Some bits of the outer encoding carry no meaning and are not signed.
            assert!(
                host_of_request(&broken).is_err() || host_of_request(&broken).is_ok_and(|h| h == host),
                "byte {at}"
            );
            assert!(host_of_request(&request[..at]).is_err(), "cut at {at}");
        }
    }
}

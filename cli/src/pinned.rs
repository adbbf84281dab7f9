//! TLS towards a coordinator: before a join the token's pin identifies it, afterwards the cluster's root certificate.

use std::sync::{Arc, Mutex};

use common::{id::ClusterId, token::Pin};
use link::{
    identity::{cluster_of, coordinator_name, pin_of},
    provider,
};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    pki_types::{CertificateDer, ServerName, UnixTime},
};

fn config(verifier: Option<Arc<dyn ServerCertVerifier>>, roots: RootCertStore) -> Result<ClientConfig, Error> {
    let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
    let mut config = match verifier {
        Some(verifier) => builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth(),
        None => builder.with_root_certificates(roots).with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// A configuration that trusts only certificates from this root.
pub fn by_root(root: &[u8]) -> Result<ClientConfig, Error> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(root.to_vec()))?;
    config(None, roots)
}

/// A verifier that accepts a coordinator whose chain ends in the root with this pin. The roots that the operating
/// system trusts do not count.
#[derive(Debug)]
pub struct PinnedRoot {
    pin: Pin,
    cluster: Mutex<Option<ClusterId>>,
}

impl PinnedRoot {
    /// A verifier for one exchange, and the TLS configuration that uses it.
    pub fn new(pin: Pin) -> Result<(Arc<PinnedRoot>, ClientConfig), Error> {
        let verifier = Arc::new(PinnedRoot { pin, cluster: Mutex::new(None) });
        let config = config(Some(verifier.clone()), RootCertStore::empty())?;
        Ok((verifier, config))
    }

    /// The cluster id from the coordinator's certificate, once the handshake has verified it.
    pub fn cluster(&self) -> Option<ClusterId> {
        *self.cluster.lock().expect("no panic while it is held")
    }
}

fn refused() -> Error {
    Error::InvalidCertificate(CertificateError::UnknownIssuer)
}

impl ServerCertVerifier for PinnedRoot {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let root = chain
            .iter()
            .find(|certificate| pin_of(certificate).is_ok_and(|pin| pin == self.pin))
            .ok_or_else(refused)?;
        let mut roots = RootCertStore::empty();
        roots.add(root.clone().into_owned())?;
        let cluster = cluster_of(leaf).map_err(|_| refused())?;
        let name = ServerName::try_from(coordinator_name(cluster)).map_err(|_| refused())?;
        let verifier =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider()).build().map_err(|_| refused())?;
        let verified = verifier.verify_server_cert(leaf, &[], &name, ocsp, now)?;
        *self.cluster.lock().expect("no panic while it is held") = Some(cluster);
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls12_signature(
            message,
            certificate,
            signed,
            &provider().signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls13_signature(
            message,
            certificate,
            signed,
            &provider().signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

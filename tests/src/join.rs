//! Joins without an installation: the work of the pasted line, in this process.

use std::{net::SocketAddr, path::Path};

use cli::client::Client;
use common::{
    api::{JoinReply, JoinRequest},
    error::Problem,
    hex,
    id::ClusterId,
    name::Name,
    token::{JoinToken, SecretHash},
};
use hyper::Method;
use link::{
    clock::now,
    identity::{join_proof, make_request},
    keyring::{Keyring, pending_key},
};

/// The host that joins.
pub struct Newcomer<'a> {
    /// Where its keyring lies then.
    pub folder: &'a Path,
    /// Its name.
    pub name: Name,
    /// Where it is reached.
    pub address: SocketAddr,
}

/// Joins a host; its keyring lies in its folder then.
pub async fn join(
    client: &Client,
    cluster: ClusterId,
    token: &JoinToken,
    newcomer: Newcomer<'_>,
) -> anyhow::Result<Keyring> {
    let Newcomer { folder, name, address } = newcomer;
    let key = pending_key(folder)?;
    let csr = make_request(&key)?;
    let proof = join_proof(&SecretHash::of(&token.secret), &csr, cluster, "nonce");
    let request = JoinRequest {
        token: token.id,
        csr: hex::encode(&csr),
        nonce: "nonce".into(),
        proof: hex::encode(&proof),
        name,
        clock: now(),
        address,
        wireguard: false,
        routes: vec![],
    };
    let said = |problem: Problem| anyhow::anyhow!("{problem}");
    let reply: JoinReply = client.send_json(Method::POST, "/api/v1/join", &request).await.map_err(said)?;
    let contents = |text: &str| pem::parse(text).map(pem::Pem::into_contents);
    let keyring = Keyring {
        cluster: reply.cluster,
        host: reply.host,
        member: reply.member,
        name: reply.name,
        certificate: contents(&reply.certificate)?,
        key,
        root: contents(&reply.authority)?,
        coordinators: reply.coordinators,
        advertise: Some(address),
        further: Default::default(),
    };
    keyring.save(folder)?;
    Ok(keyring)
}

//! Problems as users see them: what failed and on what, why, and how to fix it.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A refusal or failure in four parts. `what` names both the operation that failed and the thing that it failed on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema, thiserror::Error)]
pub struct Problem {
    /// The stable error code, such as `E0107`.
    pub code: Code,
    /// The failed operation and its object: one line, without a full stop.
    pub what: String,
    /// The actual causes, one line each.
    pub why: Vec<String>,
    /// The user's options, one line each.
    pub fix: Vec<String>,
}

impl Problem {
    /// A problem without causes and fixes, to which they can be added.
    pub fn new(code: Code, what: impl Into<String>) -> Problem {
        Problem { code, what: what.into(), why: Vec::new(), fix: Vec::new() }
    }

    /// The problem with one more cause.
    pub fn why(mut self, cause: impl Into<String>) -> Problem {
        self.why.push(cause.into());
        self
    }

    /// The problem with one more fix.
    pub fn fix(mut self, remedy: impl Into<String>) -> Problem {
        self.fix.push(remedy.into());
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} [{}]", self.what, self.code)?;
        for cause in &self.why {
            write!(f, "\n  {cause}")?;
        }
        for (index, remedy) in self.fix.iter().enumerate() {
            write!(f, "\n  {}{remedy}", if index == 0 { "Fix: " } else { "or:  " })?;
        }
        Ok(())
    }
}

macro_rules! codes {
    ($($variant:ident $code:literal $explanation:literal)*) => {
        /// A stable error code; `wharf explain CODE` prints its explanation.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
        pub enum Code {
            $(#[doc = $explanation] #[serde(rename = $code)] $variant,)*
        }

        impl Code {
            /// Every code, in ascending order.
            pub const ALL: &'static [Code] = &[$(Code::$variant),*];

            /// The code as text, such as `E0107`.
            pub fn as_str(self) -> &'static str {
                match self { $(Code::$variant => $code,)* }
            }

            /// The meaning of the code, in sentences for people.
            pub fn explanation(self) -> &'static str {
                match self { $(Code::$variant => $explanation,)* }
            }
        }
    };
}

codes! {
    TokenMalformed "E0101" "The pasted join token is incomplete or mistyped. Nothing was sent. Copy the whole line again."
    WrongAuthority "E0102" "The coordinator's certificate does not come from the cluster of the token. Either the address belongs to another cluster, or another machine intercepts the connection. No secret was sent."
    TokenUnknown "E0103" "The cluster has no such join token, or the token's secret is wrong. The answer is deliberately the same for both."
    TokenExpired "E0104" "The join token has expired. Tokens are valid for an hour unless created with a longer time."
    TokenRevoked "E0105" "Somebody revoked the join token."
    TokenUsedUp "E0107" "The join token has already admitted its maximum number of hosts."
    AddressNotAllowed "E0108" "The join token admits hosts only from a range of addresses, and this host's is outside it."
    RequestRefused "E0110" "The certificate request is malformed or weak, or asks for more rights than a host may have."
    OtherCluster "E0111" "This host already belongs to another cluster. A host can belong to only one cluster."
    ClockSkew "E0112" "The clocks of host and coordinator are too far apart for certificates to be valid."
    DockerMissing "E0113" "Docker Engine does not answer on this host."
    Unreachable "E0114" "No coordinator answered at the address."
    NotRoot "E0115" "Installing needs root: it writes the binary, the service unit and the state directory."
    PortTaken "E0116" "Another process uses a port that wharf needs."
    HostRemoved "E0117" "The host was removed from the cluster and its certificate revoked."
    ProtocolTooOld "E0118" "Host and coordinator have no version of the wire protocol in common. Upgrade the older one."
    InstallFailed "E0119" "A step of the installation failed. Running the same line again continues where it stopped."
    HostUnknown "E0120" "The cluster does not know the host, although its certificate is genuine: the cluster was restored from a backup that was made before the host joined. The host's containers go on; it has to join again."
    Cloned "E0121" "This disk was copied from another host: both use the same key. The coordinator refuses the second one, so that the two do not interfere with each other."
    StateExposed "E0122" "Other users of this machine can read the state folder, which holds the host's key and, on a coordinator, the cluster's. wharf does not start until the permissions are fixed as the message says."
    ClaimRefused "E0123" "A host says of itself what belongs to another host or to the cluster: a WireGuard key or an address. The coordinator refuses the host until it says something else."
    NoLeader "E0201" "The coordinators have no leader at the moment, or no majority of them can reach each other. Running instances keep running, but changes must wait."
    ResultUnknown "E0202" "The coordinator could not find out in time whether the change was made. It is safe to repeat the request with the same Idempotency-Key."
    MemberRefused "E0203" "The group of coordinators cannot be changed this way at present."
    SealingKeyMissing "E0204" "The coordinator does not have the key that seals secrets, or a secret was sealed with another key."
    TooOld "E0205" "A coordinator runs a version of wharf that is too old for this operation."
    StateDiffers "E0206" "The state of this coordinator differs from that of a majority at the same index of the log, so it stopped. Its host and the instances go on; it has to be removed and join again."
    RolloutFailed "E0311" "New instances of a service failed, so the rollout was stopped. Depending on its policy, the service was rolled back."
    NotPlaceable "E0312" "Some instances fit on no host. For each reason the message counts the hosts that it excludes."
    UpgradeFailed "E0313" "A host did not return healthy with another version of wharf, so the upgrade was paused. That host runs its version before again, if it could go back."
    InvalidRequest "E0400" "The request is malformed: for example, it has a wrong type, an unknown field or a number out of range."
    Unauthenticated "E0401" "The request has no valid token."
    Denied "E0403" "The token does not allow this action."
    NotFound "E0404" "The requested resource does not exist."
    Conflict "E0409" "Somebody else changed the resource in the meantime, or the request contradicts the current state."
    TooLarge "E0413" "The request is larger than the limit."
    WrongDoor "E0421" "The connection used the join key, which is valid only for the join script."
    Busy "E0429" "The coordinator has too many requests at once. Try again in a moment."
    ComposeInvalid "E0501" "The compose file is invalid, or asks for something that wharf does not support."
    StoreCorrupt "E0901" "The coordinator's store is damaged, and it knows no other coordinator that could take it in again. wharf never cuts damage away."
    StoreFailed "E0902" "The coordinator cannot write its store, because the disk is full or failing."
    BackupUnusable "E0903" "The file is not a backup, was damaged or changed, or needs another backup key. Nothing of it is used."
    Internal "E0999" "A bug in wharf. Please report it with the surrounding lines of the log."
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_all_four_parts_are_shown() {
        let mut texts: Vec<_> = Code::ALL.iter().map(|code| code.as_str()).collect();
        texts.sort_unstable();
        texts.dedup();
        assert_eq!(texts.len(), Code::ALL.len());
        let text = Problem::new(Code::TokenExpired, "Token rejected")
            .why("it ended at 14:31")
            .fix("wharf host add")
            .to_string();
        assert_eq!(text, "Token rejected [E0104]\n  it ended at 14:31\n  Fix: wharf host add");
    }
}

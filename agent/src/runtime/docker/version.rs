//! The version of the API that the agent speaks with a Docker Engine. An engine speaks a range, and newer engines refuse
//! old versions. The agent takes the newest that both speak, as Docker's own command line does: an engine ignores options
//! that are newer than the version of a request, such as a part of a volume.

use bollard::{API_DEFAULT_VERSION, ClientVersion, Docker, errors::Error};

use super::{OBSERVE_TIMEOUT, TIMEOUT};

/// The oldest API that the agent speaks: Docker 20.10.
const OLDEST: Api = Api(1, 41);
/// The newest: Docker 29.
const NEWEST: Api = Api(API_DEFAULT_VERSION.major_version, API_DEFAULT_VERSION.minor_version);
/// As an engine itself says that it does not speak a version.
const REFUSED: u16 = 505;

/// A version of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Api(usize, usize);

impl std::fmt::Display for Api {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

impl std::str::FromStr for Api {
    type Err = ();

    fn from_str(text: &str) -> Result<Api, ()> {
        let (major, minor) = text.split_once('.').ok_or(())?;
        Ok(Api(major.parse().map_err(drop)?, minor.parse().map_err(drop)?))
    }
}

/// A client of the engine behind a socket, with a version that both speak.
pub(super) async fn connect(socket: &str) -> Result<Docker, Error> {
    // Without a version in the path every engine answers.
    let asking = client(socket, OLDEST, String::new())?;
    let said = tokio::time::timeout(OBSERVE_TIMEOUT, asking.version()).await;
    let said = said.map_err(|_| Error::RequestTimeoutError)??;
    let engine = said.version.unwrap_or_default();
    let range = (said.min_api_version.as_deref(), said.api_version.as_deref());
    let chosen = choose(&engine, range);
    let chosen = chosen.map_err(|message| Error::DockerResponseServerError { status_code: REFUSED, message })?;
    client(socket, chosen, format!("/v{chosen}"))
}

/// A client whose paths begin with a prefix: the library itself leaves the version out of them, and an engine takes that
/// for whichever it likes best.
fn client(socket: &str, api: Api, prefix: String) -> Result<Docker, Error> {
    let version = ClientVersion { major_version: api.0, minor_version: api.1 };
    let client = Docker::connect_with_unix(socket, TIMEOUT.as_secs(), &version)?;
    let own = format!("/v{api}/");
    Ok(client.with_request_modifier(move |mut request| {
        let uri = request.uri();
        let (whole, path) = (uri.to_string(), uri.path_and_query().map_or("/", |path| path.as_str()));
        let socket = whole.strip_suffix(path).unwrap_or_default();
        let bare = path.strip_prefix(&own).map_or_else(|| path.to_owned(), |rest| format!("/{rest}"));
        if let Ok(uri) = format!("{socket}{prefix}{bare}").parse() {
            *request.uri_mut() = uri;
        }
        request
    }))
}

/// The version to speak with an engine that says from which one to which one it speaks.
fn choose(engine: &str, (oldest, newest): (Option<&str>, Option<&str>)) -> Result<Api, String> {
    let works = format!("wharf works with Docker 20.10 to 29, which have API {OLDEST} to {NEWEST}");
    let parsed = |text: Option<&str>| text.and_then(|text| text.parse::<Api>().ok());
    let Some(newest) = parsed(newest) else {
        return Err(format!("Docker {engine} does not report its API version; {works}"));
    };
    // Engines that do not say it are old enough.
    let oldest = parsed(oldest).unwrap_or(OLDEST);
    if newest < OLDEST {
        return Err(format!("Docker {engine} is too old: its newest API is {newest}; {works}"));
    }
    if oldest > NEWEST {
        return Err(format!("Docker {engine} is too new: its oldest API is {oldest}; {works}"));
    }
    Ok(newest.min(NEWEST))
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::UnixListener,
    };

    use super::*;

    #[test]
    fn the_newest_version_that_both_speak_is_taken() {
        let cases = [
            ("20.10.24", Some("1.12"), Some("1.41"), Ok(Api(1, 41))),
            ("28.5.1", Some("1.24"), Some("1.51"), Ok(Api(1, 51))),
            ("29.1.0", Some("1.44"), Some("1.52"), Ok(Api(1, 52))),
            ("31", Some("1.53"), Some("1.70"), Ok(Api(1, 53))),
            ("?", None, Some("1.41"), Ok(Api(1, 41))),
            ("19.03", Some("1.12"), Some("1.40"), Err("Docker 19.03 is too old: its newest API is 1.40")),
            ("40", Some("1.54"), Some("1.60"), Err("Docker 40 is too new: its oldest API is 1.54")),
            ("x", None, Some("one"), Err("does not report its API version")),
            ("x", Some("1.41"), None, Err("does not report its API version")),
        ];
        for (engine, oldest, newest, expected) in cases {
            match (choose(engine, (oldest, newest)), expected) {
                (Ok(chosen), Ok(expected)) => assert_eq!(chosen, expected, "{engine}"),
                (Err(why), Err(words)) => {
                    assert!(why.contains(words) && why.contains("works with Docker 20.10 to 29"), "{engine}: {why}");
                }
                (chosen, _) => panic!("{engine}: {chosen:?}"),
            }
        }
    }

    /// An engine that speaks a range, as Docker does: it refuses paths with another version.
    fn engine(listener: UnixListener, oldest: Api, newest: Api) -> Arc<Mutex<Vec<String>>> {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let seen = asked.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = vec![0; 4096];
                let read = stream.read(&mut request).await.unwrap_or(0);
                let text = String::from_utf8_lossy(&request[..read]).into_owned();
                let path = text.split(' ').nth(1).unwrap_or_default().to_owned();
                let version = path.strip_prefix("/v").and_then(|rest| rest.split('/').next()?.parse::<Api>().ok());
                let speaks = version.is_none_or(|version| (oldest..=newest).contains(&version));
                let (status, body) = match speaks {
                    true if path.ends_with("/version") => {
                        ("200 OK", format!(r#"{{"Version":"29","ApiVersion":"{newest}","MinAPIVersion":"{oldest}"}}"#))
                    }
                    true => ("200 OK", "[]".to_owned()),
                    false => ("400 Bad Request", r#"{"message":"client version is too old"}"#.to_owned()),
                };
                seen.lock().expect("no panic").push(path);
                let answer = format!(
                    "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                    body.len()
                );
                stream.write_all(answer.as_bytes()).await.ok();
            }
        });
        asked
    }

    #[tokio::test]
    async fn an_engine_that_refuses_old_versions_is_spoken_with() {
        let cases = [
            (Api(1, 12), Api(1, 41), Ok("/v1.41/")),
            (Api(1, 44), Api(1, 99), Ok("/v1.53/")),
            (Api(1, 12), Api(1, 40), Err("too old")),
            (Api(1, 90), Api(1, 99), Err("too new")),
        ];
        for (oldest, newest, expected) in cases {
            let folder = tempfile::tempdir().expect("a folder");
            let socket = folder.path().join("docker.sock");
            let asked = engine(UnixListener::bind(&socket).expect("a socket"), oldest, newest);
            let connected = connect(&socket.display().to_string()).await;
            match (connected, expected) {
                (Ok(client), Ok(prefix)) => {
                    client.list_containers(None).await.unwrap_or_else(|error| panic!("{oldest}: {error}"));
                    let asked = asked.lock().expect("no panic").clone();
                    assert_eq!(asked[0], "/version", "no engine refuses the first question");
                    assert!(asked[1].starts_with(prefix), "{oldest}: {asked:?}");
                }
                (Err(error), Err(words)) => assert!(error.to_string().contains(words), "{error}"),
                (Ok(_), Err(words)) => panic!("{oldest} to {newest}: not {words}"),
                (Err(error), Ok(_)) => panic!("{oldest} to {newest}: {error}"),
            }
        }
    }
}

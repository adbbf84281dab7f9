//! References to images, in the one form in which Docker shows them.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Docker's id of an image.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ImageId(pub String);

/// A reference to an image as Docker shows it, `web:1` or `web@sha256:…`: people may write the same one in several ways.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Reference(String);

impl Reference {
    /// The reference that a text means, as a person or Docker writes it.
    pub fn of(image: &str) -> Reference {
        let (name, version) = name_and_tag(image);
        let separator = if image.contains('@') { '@' } else { ':' };
        Reference(format!("{}{separator}{version}", familiar(name)))
    }

    /// The reference as Docker takes it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it names one image for ever, and is no tag that may move.
    pub fn is_digest(&self) -> bool {
        self.0.contains('@')
    }

    /// The name before the tag or the digest.
    pub fn repository(&self) -> &str {
        name_and_tag(&self.0).0
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Docker leaves out its own registry, and the folder of the official images there.
fn familiar(name: &str) -> &str {
    let of_the_hub = ["docker.io/", "index.docker.io/"].iter().find_map(|registry| name.strip_prefix(registry));
    let name = of_the_hub.unwrap_or(name);
    name.strip_prefix("library/").filter(|rest| !rest.contains('/')).unwrap_or(name)
}

/// The name of an image and the one tag or digest that counts: the digest if there is one, else the tag.
pub fn name_and_tag(image: &str) -> (&str, &str) {
    if let Some((name, digest)) = image.split_once('@') {
        let name = name.rsplit_once(':').filter(|(_, tag)| !tag.contains('/')).map_or(name, |(name, _)| name);
        return (name, digest);
    }
    match image.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, tag),
        _ => (image, "latest"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_pulled_by_exactly_one_tag_or_digest() {
        let cases = [
            ("web", ("web", "latest")),
            ("web:1", ("web", "1")),
            ("localhost:5000/web", ("localhost:5000/web", "latest")),
            ("localhost:5000/web:1", ("localhost:5000/web", "1")),
            ("web@sha256:ab", ("web", "sha256:ab")),
            ("localhost:5000/web:1@sha256:ab", ("localhost:5000/web", "sha256:ab")),
        ];
        for (image, expected) in cases {
            assert_eq!(name_and_tag(image), expected, "{image}");
        }
    }

    #[test]
    fn every_spelling_means_the_reference_that_docker_shows() {
        let cases = [
            ("web", "web:latest", "web"),
            ("docker.io/library/web:1", "web:1", "web"),
            ("library/web", "web:latest", "web"),
            ("index.docker.io/shop/web:1", "shop/web:1", "shop/web"),
            ("docker.io/library/shop/web:1", "library/shop/web:1", "library/shop/web"),
            ("localhost:5000/library/web", "localhost:5000/library/web:latest", "localhost:5000/library/web"),
            ("docker.io/web:1@sha256:ab", "web@sha256:ab", "web"),
        ];
        for (image, shown, repository) in cases {
            let reference = Reference::of(image);
            assert_eq!((reference.as_str(), reference.repository()), (shown, repository), "{image}");
            assert_eq!(Reference::of(shown), reference, "{shown} means itself");
            assert_eq!(reference.is_digest(), image.contains('@'), "{image}");
        }
    }
}

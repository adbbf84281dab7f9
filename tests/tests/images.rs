//! What wharf pulled to a host, and removes from it when the disk of its Docker fills up.

use std::time::Duration;

use anyhow::ensure;
use tests::{lab::Lab, wait::until};

const SOON: Duration = Duration::from_secs(40);
/// The registry, on the host itself: Docker asks it without TLS.
const REGISTRY: &str = "127.0.0.1:5000";

/// Puts images web:0 to web:4 into the folder of a registry: the lab's image, with 20 MiB that each has to itself.
const MAKE_IMAGES: &str = r#"set -e
folder=$1 image=$2 architecture=$(docker version --format '{{.Server.Arch}}')
mkdir -p "$folder/v2/web/blobs" "$folder/v2/web/manifests"
cd "$folder/v2/web"
blob() { # moves a file to its digest, and prints that
    digest=sha256:$(sha256sum "$1" | cut -d' ' -f1)
    mv "$1" "blobs/$digest"
    echo "$digest"
}
described() { # type, digest
    echo "{\"mediaType\":\"application/vnd.oci.image.$1\",\"digest\":\"$2\",\"size\":$(stat -c %s "blobs/$2")}"
}
for tag in 0 1 2 3 4; do
    cp "$image" layer
    head -c 20M /dev/urandom >filler
    tar --append -f layer filler
    layer=$(blob layer)
    echo "{\"architecture\":\"$architecture\",\"os\":\"linux\",\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[\"$layer\"]}," \
        '"config":{"Cmd":["/bin/httpd","-f","-p","80","-h","/www"]}}' >config
    config=$(blob config)
    echo '{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",' \
        "\"config\":$(described config.v1+json "$config"),\"layers\":[$(described layer.v1.tar "$layer")]}" >manifests/$tag
    cp manifests/$tag "manifests/sha256:$(sha256sum manifests/$tag | cut -d' ' -f1)"
done
"#;

/// Gives a host's Docker its own disk, and a registry with images.
fn give_disk_and_registry(lab: &Lab) {
    let swap = "kill -9 $(cat /run/docker.pid); pkill -x containerd
        mount -t tmpfs -o size=320m tmpfs /var/lib/docker";
    lab.exec("h1", &["sh", "-c", swap]).expect("its disk is another one");
    lab.run(&["start-docker", "h1"]).expect("its Docker starts");
    lab.run(&["hosts", "1"]).expect("it has the lab's image");
    lab.wait_until_whole(SOON);
    let script = lab.put_file("h1", "make-images", MAKE_IMAGES);
    let (home, _) = script.rsplit_once('/').expect("a path");
    let (folder, image) = (format!("{home}/registry"), format!("{home}/../../image.tar"));
    lab.exec("h1", &["sh", &script, &folder, &image]).expect("the images are made");
    let serve = format!("setsid {} registry 5000 {folder} >/dev/null 2>&1 </dev/null &", lab.load());
    lab.exec("h1", &["sh", "-c", &serve]).expect("the registry starts");
    until(SOON, "the registry answers", || lab.exec("h1", &["curl", "-fs", &format!("http://{REGISTRY}/v2/")]));
}

fn deploy(lab: &Lab, tag: u32) {
    lab.deploy("shop", &format!("services: {{web: {{image: '{REGISTRY}/web:{tag}', stop_grace_period: 1s}}}}"));
}

fn images(lab: &Lab) -> anyhow::Result<Vec<String>> {
    let listed = lab.docker("h1", &["images", "--format", "{{.Repository}}:{{.Tag}}"])?;
    let mut images: Vec<String> = listed.lines().map(str::to_owned).collect();
    images.sort();
    Ok(images)
}

#[test]
fn a_full_disk_loses_old_images_that_wharf_pulled_and_no_others() {
    let lab = Lab::up(1);
    give_disk_and_registry(&lab);
    let of_registry = |tag: u32| format!("{REGISTRY}/web:{tag}");
    // Somebody's own: one that was pulled by hand, and a second name.
    lab.docker("h1", &["pull", &of_registry(0)]).expect("it is pulled");
    lab.docker("h1", &["tag", "lab/web:1", "lab/own:1"]).expect("it is tagged");
    (1..=3).for_each(|tag| deploy(&lab, tag));
    let all: Vec<String> = (0..=3).map(of_registry).chain(["lab/own:1".to_owned(), "lab/web:1".to_owned()]).collect();
    assert_eq!(images(&lab).expect("they are listed"), all, "there is room");

    lab.exec("h1", &["dd", "if=/dev/zero", "of=/var/lib/docker/filler", "bs=1M", "count=170"]).expect("it fits");
    deploy(&lab, 4);
    let kept: Vec<String> = [0, 3, 4].into_iter().map(of_registry).chain(all.into_iter().skip(4)).collect();
    until(SOON, "the images of older revisions are gone", || {
        let found = images(&lab)?;
        ensure!(found == kept, "{found:?}");
        anyhow::Ok(())
    });
    lab.wait_for_log("h1", SOON, "Docker's disk was cleaned up");
    // The disk is fuller than it should be still; the last two revisions stay, and one of them takes over at once.
    deploy(&lab, 3);
    assert_eq!(images(&lab).expect("they are listed"), kept);
}

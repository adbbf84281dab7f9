//! Containers on different hosts reach each other by address, and outsiders do not reach them. Damage is repaired, and
//! an agent's restart goes unnoticed. On real hosts, beside one that is not in the cluster; with VXLAN, and with
//! WireGuard, where nobody on the way can read the packets.

use std::{net::Ipv4Addr, time::Duration};

use anyhow::{Context, ensure};
use common::network::Backend;
use tests::{lab::Lab, wait::until};

const SOON: Duration = Duration::from_secs(20);
/// The time within which datagrams of a sender that never pauses arrive again, once there is a receiver.
const ARRIVES: Duration = Duration::from_secs(5);
/// The time within which a missing interface or flushed rules are restored.
const REPAIRED: Duration = Duration::from_secs(5);

const STACK: &str = "
services:
  one:
    image: lab/web:1
    command: [/bin/httpd, -f, -vv, -p, '80', -h, /www]
    deploy: {replicas: 2, placement: {constraints: [node.hostname == h1]}}
  two:
    image: lab/web:1
    command: [/bin/httpd, -f, -vv, -p, '80', -h, /www]
    deploy: {placement: {constraints: [node.hostname == h2]}}
  open:
    image: lab/web:1
    ports: ['8080:80', '8053:8053/udp']
    deploy: {placement: {constraints: [node.hostname == h1]}}
";

/// A program in a host's network, which ends with the host.
const LISTEN: &str = "busybox httpd -p 9999 -h /var";

/// A container, with its host and address.
struct Place {
    host: String,
    container: String,
    address: Ipv4Addr,
}

struct Overlay {
    lab: Lab,
    backend: Backend,
    one: [Place; 2],
    two: Place,
    open: Place,
}

impl Overlay {
    /// Two hosts with instances, and a third one that is not in the cluster.
    fn up(lab: Lab, backend: Backend) -> Overlay {
        lab.run(&["up", "2", "--overlay", &backend.to_string()]).expect("h3 stays outside");
        Overlay::deploy(lab, backend)
    }

    fn deploy(lab: Lab, backend: Backend) -> Overlay {
        lab.deploy("net", STACK);
        let place = |service: &str, slot: u32| {
            until(SOON, "its address is known", || {
                let instances = lab.instances("h1")?;
                let is_it =
                    |id: &common::id::InstanceId| id.service().service.as_str() == service && id.slot.slot == slot;
                let instance = instances.into_iter().find(|i| is_it(&i.id)).context("it is there")?;
                anyhow::Ok(Place {
                    host: instance.host_name.context("its host is known")?.to_string(),
                    container: instance.id.container_name(),
                    address: instance.observed.address.context("it has an address")?,
                })
            })
        };
        let (one, two, open) = ([place("one", 1), place("one", 2)], place("two", 1), place("open", 1));
        Overlay { lab, backend, one, two, open }
    }

    /// The size of the largest packet that the overlay carries, in bytes.
    fn mtu(&self) -> u32 {
        match self.backend {
            Backend::Vxlan | Backend::None => 1450,
            Backend::Wireguard => 1420,
        }
    }

    /// Whether a container gets an answer from this address.
    fn reaches(&self, from: &Place, to: &str) -> bool {
        let busybox = "/bin/busybox";
        let words = ["exec", &from.container, busybox, "timeout", "2", busybox, "wget", "-q", "-O", "-", to];
        self.lab.docker(&from.host, &words).is_ok_and(|said| said.contains("ok"))
    }

    /// Whether a host gets an answer from this address.
    fn host_reaches(&self, from: &str, to: &str) -> bool {
        let words = ["busybox", "timeout", "2", "busybox", "wget", "-q", "-O", "-", to];
        self.lab.exec(from, &words).is_ok_and(|said| said.contains("ok"))
    }

    /// The number of TCP segments that have arrived at a container.
    fn segments(&self, at: &Place) -> u64 {
        let words = ["exec", &at.container, "/bin/busybox", "cat", "/proc/net/snmp"];
        let said = self.lab.docker(&at.host, &words).expect("it answers");
        let counts = said.lines().filter(|line| line.starts_with("Tcp:")).nth(1).expect("there is a line of counts");
        counts.split_whitespace().nth(10).and_then(|count| count.parse().ok()).expect("segments that came in")
    }
}

fn url(address: Ipv4Addr) -> String {
    format!("http://{address}/")
}

/// The network configuration of a host without counters, Docker's numbering, and the order of Docker's own jumps, which
/// changes with a restart.
fn network_of(lab: &Lab, host: &str) -> String {
    let script = "ip -o link | sed 's/^[0-9]*: //;s/@if[0-9]*//' | cut -d' ' -f1; ip route; \
                  nft -s list ruleset | grep '^table'; iptables-save | grep -v '^[#:]' | sort";
    lab.exec(host, &["sh", "-c", script]).expect("it can be read")
}

fn sh(lab: &Lab, host: &str, script: &str) {
    lab.exec(host, &["sh", "-c", script]).expect("it is done");
}

#[test]
fn containers_of_all_hosts_are_one_network_and_nobody_elses() {
    let lab = Lab::plain(3);
    // Docker keeps some rules after its first network; they are not ours.
    for host in ["h1", "h2"] {
        lab.docker(host, &["network", "create", "first"]).expect("it is made");
        lab.docker(host, &["network", "rm", "first"]).expect("it goes");
    }
    let before = network_of(&lab, "h2");
    let overlay = Overlay::up(lab, Backend::Vxlan);
    all_reach_each_other(&overlay);
    outsiders_reach_what_is_published(&overlay);
    assert!(is_read_on_the_way(&overlay), "what is in clear is");
    what_is_broken_is_mended(
        &overlay,
        &[
            ("h1", "nft delete table ip wharf"),
            ("h1", "nft flush chain ip wharf forward"),
            ("h2", "ip link del wharf-tun0"),
            ("h2", "ip route flush proto 77"),
            ("h1", "bridge fdb del 02:0a:0a:2a:01:00 dev wharf-tun0 dst 10.97.0.2 self"),
            ("h2", "iptables -F WHARF-FORWARD; iptables -P FORWARD DROP"),
        ],
    );
    an_agent_that_is_started_anew_is_not_noticed(&overlay);
    // The repaired state is compared with the original: the empty chain of a removed service remains until all rules
    // are reloaded.
    datagrams_follow_a_published_port(&overlay);
    nothing_is_left_of_it(overlay.lab, &before);
}

#[test]
fn nobody_comes_in_under_another_name() {
    let overlay = Overlay::up(Lab::bare(3), Backend::Vxlan);
    nobody_forges_frames(&overlay);
    nobody_speaks_as_another(&overlay);
}

#[test]
fn through_wireguard_nobody_on_the_way_reads_or_writes() {
    let lab = Lab::bare(3);
    for host in ["h1", "h2"] {
        lab.docker(host, &["network", "create", "first"]).expect("it is made");
        lab.docker(host, &["network", "rm", "first"]).expect("it goes");
    }
    let before = network_of(&lab, "h2");
    let overlay = Overlay::up(lab, Backend::Wireguard);
    all_reach_each_other(&overlay);
    outsiders_reach_what_is_published(&overlay);
    nobody_forges_frames(&overlay);
    assert!(!is_read_on_the_way(&overlay), "what is encrypted is not");
    who_does_not_fit_is_not_admitted(&overlay.lab);
    what_is_broken_is_mended(
        &overlay,
        &[
            ("h2", "ip link del wharf-tun0"),
            ("h1", "pkill -9 -x wharf-tunnel"),
            ("h2", "ip route flush proto 77"),
            ("h1", "wg set wharf-tun0 peer $(wg show wharf-tun0 peers) remove"),
            ("h1", "wg set wharf-tun0 listen-port 9"),
        ],
    );
    an_agent_that_is_started_anew_is_not_noticed(&overlay);
    nothing_is_left_of_it(overlay.lab, &before);
}

#[test]
fn a_host_may_be_given_another_address() {
    a_host_is_given_another_address(Backend::Vxlan);
}

#[test]
fn through_wireguard_a_host_may_be_given_another_address() {
    a_host_is_given_another_address(Backend::Wireguard);
}

/// The network gives a host another address: its agent reports it, and the others follow.
fn a_host_is_given_another_address(backend: Backend) {
    let lab = Lab::bare(2);
    lab.run(&["up", "1", "--overlay", &backend.to_string()]).expect("it comes up");
    // Coordinators have fixed addresses, but h2 is not one.
    lab.run(&["join", "h2"]).expect("it joins");
    let overlay = Overlay::deploy(lab, backend);
    let Overlay { lab, one: [first, _], two, .. } = &overlay;
    let both_ways = || overlay.reaches(first, &url(two.address)) && overlay.reaches(two, &url(first.address));
    assert!(both_ways());
    sh(lab, "h2", "ip addr del 10.97.0.2/24 dev eth0; ip addr add 10.97.0.22/24 dev eth0");
    let began = std::time::Instant::now();
    until(SOON, "they reach each other again", || {
        ensure!(both_ways(), "they do not");
        anyhow::Ok(())
    });
    println!("{backend}: they reach each other again after {:?}", began.elapsed());
    let known = lab.hosts("h1").expect("they are listed").into_iter().find(|host| host.name.as_str() == "h2");
    let address = known.and_then(|host| host.facts).map(|facts| facts.address.to_string());
    assert_eq!(address.as_deref(), Some("10.97.0.22"));
}

fn nothing_is_left_of_it(lab: Lab, before: &str) {
    lab.exec("h1", &["wharf", "rm", "net", "-y"]).expect("it goes");
    lab.exec("h1", &["wharf", "member", "rm", "2", "-y"]).expect("it leaves the group");
    lab.exec("h2", &["wharf", "uninstall", "-y"]).expect("it is removed");
    until(SOON, "nothing of it runs", || {
        ensure!(lab.exec("h2", &["pgrep", "wharf"]).is_err(), "a process does");
        anyhow::Ok(())
    });
    assert_eq!(network_of(&lab, "h2"), before, "nothing is left of it");
    lab.exec("h1", &["wharf", "host", "rm", "h2", "-y"]).expect("the cluster forgets it");
    until(REPAIRED, "nothing leads to it any more", || {
        let script = "ip route show 10.42.1.0/24; bridge fdb show dev wharf-tun0; \
                      ip neigh show dev wharf-tun0 nud permanent; \
                      if pgrep -x wharf-tunnel >/dev/null; then wg show wharf-tun0 peers; fi";
        let left = lab.exec("h1", &["sh", "-c", script])?;
        ensure!(left.trim().is_empty(), "{left}");
        anyhow::Ok(())
    });
}

fn all_reach_each_other(overlay: &Overlay) {
    let Overlay { lab, one: [first, second], two, open, .. } = overlay;
    assert!(overlay.reaches(first, &url(second.address)), "a container of the same host");
    assert!(overlay.reaches(first, &url(two.address)), "one of another host");
    assert!(overlay.reaches(two, &url(first.address)), "and back");
    assert!(overlay.host_reaches("h1", &url(first.address)), "a host its own");
    assert!(overlay.host_reaches("h2", &url(first.address)), "and that of another");
    assert!(overlay.reaches(two, "http://10.97.0.1:8080/"), "what is published, from a container of another host");
    assert!(overlay.host_reaches("h2", "http://10.97.0.1:8080/"), "from another host");
    assert!(overlay.host_reaches("h1", "http://10.97.0.1:8080/"), "from the host itself");
    for address in ["10.97.0.1", "10.42.0.0", "10.42.0.1"] {
        let to = format!("http://{address}:8080/");
        assert!(overlay.reaches(first, &to), "from another container of the host, by {address}");
        assert!(overlay.reaches(open, &to), "from the container itself, by {address}");
    }
    let delay = lab.exec("h1", &["cat", "/proc/sys/net/ipv4/neigh/wharf-br0/proxy_delay"]).expect("it is read");
    assert_eq!(delay.trim(), "0", "whoever asks where another container is hears it at once");
    let seen = lab.exec("h1", &["sh", "-c", "wharf logs net/two 2>&1"]).expect("it logs");
    assert!(seen.contains(&first.address.to_string()), "who asks is known by its own address: {seen}");
    let (content, address) = (format!("-s{}", overlay.mtu() - 28), two.address.to_string());
    let largest = ["exec", &first.container, "/bin/busybox", "ping", "-c1", "-W1", &content, &address];
    lab.docker(&first.host, &largest).expect("a packet as large as may be passes");

    // On hosts, containers reach only published ports.
    sh(lab, "h1", LISTEN);
    assert!(lab.exec("h2", &["busybox", "nc", "-w", "2", "10.97.0.1", "9999"]).is_ok(), "it listens");
    for (from, to) in [(first, "10.42.0.1"), (first, "10.97.0.1"), (two, "10.42.0.1"), (two, "10.42.0.0")] {
        let words = ["exec", &from.container, "/bin/busybox", "nc", "-w", "2", to, "9999"];
        assert!(lab.docker(&from.host, &words).is_err(), "{} does not reach {to}", from.container);
    }
    // An unused service address is refused instead of timing out.
    let unknown = ["exec", &open.container, "/bin/busybox", "nc", "-w", "5", "10.43.0.9", "80"];
    let began = std::time::Instant::now();
    assert!(lab.docker(&open.host, &unknown).is_err(), "nobody is there");
    assert!(began.elapsed() < Duration::from_secs(4), "it was refused at once");
}

fn outsiders_reach_what_is_published(overlay: &Overlay) {
    let Overlay { lab, one: [first, _], open, .. } = overlay;
    assert!(overlay.host_reaches("h3", "http://10.97.0.1:8080/"), "what is published");
    sh(lab, "h3", "ip route add 10.42.0.0/24 via 10.97.0.1");
    assert!(!overlay.host_reaches("h3", &url(first.address)), "not a container that publishes nothing");
    assert!(!overlay.host_reaches("h3", &url(open.address)), "nor one that does, by its own address");
    sh(lab, "h3", "ip route del 10.42.0.0/24 via 10.97.0.1");
    // Outside, containers appear with their host's address.
    sh(lab, "h3", "setsid busybox httpd -f -vv -p 7000 -h /var >/dev/null 2>/run/seen </dev/null & :");
    until(SOON, "h3 was asked by h1", || {
        overlay.reaches(first, "http://10.97.0.3:7000/");
        let seen = lab.exec("h3", &["cat", "/run/seen"])?;
        ensure!(seen.contains("10.97.0.1") && !seen.contains(&first.address.to_string()), "{seen}");
        anyhow::Ok(())
    });
}

/// An outsider sends datagrams from one port without a pause: before anything listens, while the program is killed, and
/// while the service is replaced.
fn datagrams_follow_a_published_port(overlay: &Overlay) {
    let Overlay { lab, .. } = overlay;
    let program = lab.load();
    let deploy = |word: &str| {
        let stack = format!(
            "
services:
  hear:
    image: lab/web:1
    command: [/load, hear, '9000']
    volumes: ['{program}:/load:ro']
    environment: {{WORD: {word}}}
    ports: ['9000:9000/udp']
    stop_grace_period: 0s
    deploy: {{placement: {{constraints: [node.hostname == h1]}}}}
"
        );
        lab.deploy("hear", &stack);
    };
    sh(
        lab,
        "h3",
        &format!("setsid {program} datagrams 600 --to 10.97.0.1:9000 --file /run/sent >/dev/null 2>&1 </dev/null & :"),
    );
    let counts = || -> anyhow::Result<(u64, u64)> {
        let said = lab.exec("h3", &["cat", "/run/sent"])?;
        let (sent, answered) = said.trim().split_once(' ').context("two numbers")?;
        Ok((sent.parse()?, answered.parse()?))
    };
    let arrive_again = |what: &str| {
        let (_, before) = counts().expect("it sends");
        until(ARRIVES, what, || {
            ensure!(counts()?.1 > before, "none came back");
            anyhow::Ok(())
        });
    };
    until(SOON, "nobody answers", || {
        let (sent, answered) = counts()?;
        ensure!(sent > 3 && answered == 0, "{sent} {answered}");
        anyhow::Ok(())
    });
    deploy("first");
    arrive_again("what came before anything was there");
    let running =
        || lab.running("h1").expect("Docker answers").into_iter().find(|(name, _)| name.contains(".hear.hear."));
    let (name, _) = running().expect("it runs");
    lab.docker("h1", &["kill", &name]).expect("it dies");
    until(SOON, "it is started again", || running().context("it is not there"));
    arrive_again("after the program was killed");
    deploy("second");
    arrive_again("after an update");
    sh(lab, "h3", "pkill -x load");
    lab.exec("h1", &["wharf", "rm", "hear", "-y"]).expect("it goes");
}

/// A neighbour that knows the overlay sends packets into it.
fn nobody_forges_frames(overlay: &Overlay) {
    let Overlay { lab, one: [first, _], .. } = overlay;
    sh(
        lab,
        "h3",
        "ip link add v type vxlan id 4242 dstport 8472 local 10.97.0.3 dev eth0 nolearning; ip link set v up; \
         ip addr add 10.42.9.0/32 dev v; bridge fdb replace 02:0a:0a:2a:00:00 dev v dst 10.97.0.1 self permanent; \
         ip neigh replace 10.42.0.0 lladdr 02:0a:0a:2a:00:00 dev v nud permanent; \
         ip route replace 10.42.0.0/24 via 10.42.0.0 dev v onlink src 10.42.9.0",
    );
    let arrives = || {
        let before = overlay.segments(first);
        assert!(!overlay.host_reaches("h3", &url(first.address)), "an answer finds no way back in any case");
        overlay.segments(first) > before
    };
    assert!(!arrives(), "what comes from no peer is dropped");
    // The counter-check: this rule keeps it away.
    lab.run(&["stop-wharf", "h1"]).expect("nobody mends");
    sh(lab, "h1", "nft flush chain ip wharf raw-in");
    assert!(!arrives(), "who belongs nowhere is dropped, too");
    sh(lab, "h1", "nft insert rule ip wharf between accept");
    // Without the rules the same packet arrives, unless it would have to be encrypted.
    assert_eq!(arrives(), overlay.backend == Backend::Vxlan);
    lab.run(&["start-wharf", "h1"]).expect("it starts");
    until(REPAIRED + SOON, "the rule is back", || {
        let rules = lab.exec("h1", &["nft", "list", "chain", "ip", "wharf", "raw-in"])?;
        ensure!(rules.contains("@peers drop"), "{rules}");
        anyhow::Ok(())
    });
    sh(lab, "h3", "ip link del v");
}

/// A container with full control of its own network pretends to be another one on its host.
fn nobody_speaks_as_another(overlay: &Overlay) {
    let Overlay { lab, one: [other, liar], two, .. } = overlay;
    let hardware = |place: &Place| {
        let words = ["exec", &place.container, "/bin/busybox", "cat", "/sys/class/net/eth0/address"];
        lab.docker(&place.host, &words).expect("it has one").trim().to_owned()
    };
    let (own, others) = (hardware(liar), hardware(other));
    let pid = lab.docker("h1", &["inspect", "-f", "{{.State.Pid}}", &liar.container]).expect("it runs");
    let does = |script: &str| lab.exec("h1", &["nsenter", "-t", pid.trim(), "-n", "sh", "-c", script]);
    let arrives = || {
        let before = overlay.segments(two);
        does(&format!("busybox timeout 2 busybox nc {} 80 </dev/null; :", two.address)).expect("it is sent");
        overlay.segments(two) > before
    };
    let is_believed = |other: &Place| {
        sh(lab, "h1", &format!("busybox ping -c1 -W1 {}", other.address));
        does(&format!("busybox arping -U -c 2 -I eth0 -s {0} {0}; :", other.address)).expect("it is sent");
        let known = lab.exec("h1", &["ip", "neigh", "show", &other.address.to_string()]).expect("it is shown");
        !known.contains(&others)
    };
    let lies = || {
        let way = format!("{} via 10.42.0.1 src {}", two.address, other.address);
        does(&format!("ip addr add {}/32 dev eth0; ip route add {way}", other.address)).expect("it has its address");
        let by_address = arrives();
        let by_announcement = is_believed(other);
        let script = format!("ip route del {way}; ip addr del {}/32 dev eth0", other.address);
        does(&format!("{script}; ip link set eth0 address {others}")).expect("it has its hardware address");
        let by_hardware = arrives();
        does(&format!("ip link set eth0 address {own}")).expect("it is itself again");
        [by_address, by_announcement, by_hardware]
    };
    assert!(arrives(), "as itself it is heard");
    assert_eq!(lies(), [false; 3], "by another's address, by what it says of that, by another's hardware address");
    assert!(arrives(), "as itself it is heard again");
    // The counter-check: this rule keeps it away.
    lab.run(&["stop-wharf", "h1"]).expect("nobody mends");
    sh(lab, "h1", "nft flush chain bridge wharf from");
    assert_eq!(lies(), [true; 3]);
    lab.run(&["start-wharf", "h1"]).expect("it starts");
    until(REPAIRED + SOON, "the rule is back, and the kernel asks anew who has the address", || {
        sh(lab, "h1", &format!("ip neigh flush to {}", other.address));
        ensure!(overlay.reaches(other, &url(two.address)), "the other is not heard");
        ensure!(lies() == [false; 3], "it is not back");
        anyhow::Ok(())
    });
}

/// Whether an eavesdropper on the way can read what containers send to each other.
fn is_read_on_the_way(overlay: &Overlay) -> bool {
    let Overlay { lab, one: [first, _], two, .. } = overlay;
    sh(lab, "h1", "setsid tcpdump -i eth0 -U -w /run/seen.pcap >/dev/null 2>&1 </dev/null & :");
    let seen = |what: &str| lab.exec("h1", &["grep", "-c", "-a", what, "/run/seen.pcap"]).is_ok();
    // Packets in clear are sent before, to know that the eavesdropper listens, and after, to know that it has written
    // everything.
    let in_clear = |what: &str| {
        until(SOON, what, || {
            overlay.host_reaches("h2", &format!("http://10.97.0.1:8080/?{what}"));
            ensure!(seen(what), "it is not seen yet");
            anyhow::Ok(())
        });
    };
    in_clear("said-before");
    assert!(overlay.reaches(first, &format!("http://{}/?said-inside", two.address)), "it is asked");
    in_clear("said-after");
    sh(lab, "h1", "pkill -x tcpdump");
    seen("said-inside")
}

fn who_does_not_fit_is_not_admitted(lab: &Lab) {
    for (begin, why, end) in [
        ("mount -t tmpfs none /dev/net", "it cannot encrypt its packets to other hosts", "umount /dev/net"),
        ("ip route add 10.42.7.0/24 dev eth0", "it has a route to 10.42.7.0/24 (eth0)", "ip route del 10.42.7.0/24"),
    ] {
        sh(lab, "h3", begin);
        let refused = lab.run(&["join", "h3"]).expect_err("it is refused");
        assert!(format!("{refused:#}").contains(why), "{refused:#}");
        assert_eq!(lab.hosts("h1").expect("they are listed").len(), 2);
        sh(lab, "h3", end);
    }
}

fn what_is_broken_is_mended(overlay: &Overlay, damages: &[(&str, &str)]) {
    let Overlay { lab, one: [first, _], two, .. } = overlay;
    // A healthy network is left alone: the agent makes no further changes.
    for host in ["h1", "h2"] {
        let changes = || lab.exec(host, &["grep", "-c", "the overlay changes", "/var/lib/wharf/wharf.log"]);
        let before = changes().expect("there were some");
        std::thread::sleep(REPAIRED);
        assert_eq!(changes().expect("there were some"), before, "{host} is changed again and again");
    }
    // The empty chain of a removed service remains until all rules are reloaded, which happens once.
    for host in ["h1", "h2"] {
        sh(lab, host, "nft delete table ip wharf");
        until(REPAIRED, "the rules are back", || {
            lab.exec(host, &["nft", "list", "chain", "ip", "wharf", "forward"])?;
            ensure!(overlay.reaches(first, &url(two.address)), "it does not answer");
            anyhow::Ok(())
        });
    }
    for (host, damage) in damages {
        let before = [made_on(lab, "h1"), made_on(lab, "h2")];
        // The tunnel in user space may drop a request while the agent queries it.
        until(SOON, "it is broken", || lab.exec(host, &["sh", "-c", damage]));
        until(REPAIRED, damage, || {
            for (host, before) in ["h1", "h2"].into_iter().zip(&before) {
                let now = made_on(lab, host);
                let new: Vec<&str> = now.lines().filter(|line| !before.contains(line)).collect();
                ensure!(now == *before, "{host} differs; new is {new:?}; it was {before}");
            }
            ensure!(overlay.reaches(first, &url(two.address)), "it does not answer");
            anyhow::Ok(())
        });
    }
    lab.run(&["crash-docker", "h2"]).expect("it crashes");
    assert!(overlay.reaches(first, &url(two.address)), "containers go on without their Docker");
    lab.run(&["start-docker", "h2"]).expect("it starts");
    until(SOON, "and with it again", || {
        ensure!(overlay.reaches(first, &url(two.address)), "it does not answer");
        anyhow::Ok(())
    });
}

/// The agent's part of a host's network, as far as it is reproducible.
fn made_on(lab: &Lab, host: &str) -> String {
    let script = "wg show all listen-port; wg show all allowed-ips; nft -s list table ip wharf; \
                  nft -s list table bridge wharf; ip route show proto 77 | sort";
    lab.exec(host, &["sh", "-c", script]).unwrap_or_else(|error| error.to_string())
}

fn an_agent_that_is_started_anew_is_not_noticed(overlay: &Overlay) {
    let Overlay { lab, one: [first, _], two, .. } = overlay;
    let calls = format!(
        "failed=0; for i in $(/bin/busybox seq 300); do /bin/busybox wget -q -O /dev/null {} || failed=$((failed+1)); \
         /bin/busybox usleep 20000; done; echo failed $failed",
        url(two.address)
    );
    let said = std::thread::scope(|scope| {
        let words = ["exec", &first.container, "/bin/busybox", "sh", "-c", &calls];
        let calling = scope.spawn(move || lab.docker(&first.host, &words));
        for host in ["h1", "h2"] {
            lab.run(&["stop-wharf", host]).expect("it dies");
            lab.run(&["start-wharf", host]).expect("it starts");
        }
        calling.join().expect("it does not panic").expect("it is asked")
    });
    assert_eq!(said.trim(), "failed 0");
    // Later containers get the network, too.
    lab.exec("h1", &["wharf", "scale", "net/two=2"]).expect("one more is wanted");
    until(SOON, "it has an address", || {
        let instances = lab.instances("h1")?;
        let addressed =
            instances.iter().filter(|i| i.id.service().service.as_str() == "two" && i.observed.address.is_some());
        ensure!(addressed.count() == 2, "{instances:?}");
        anyhow::Ok(())
    });
}

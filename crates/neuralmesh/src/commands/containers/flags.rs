//! docker's spellings of ports, mounts, variables, sizes and times, read into the API's types.

use anyhow::Context as _;
use nm_types::container::{DeviceMapping, MountSource, PortMapping, Protocol, RestartPolicy, VolumeMode, VolumeMount};
use nm_types::text::{Argument, ContainerPath, DeviceAccess, DevicePath, EnvName, LabelKey, Word};
use nm_types::units::{CpuLimit, MemoryLimit, Port};
use std::net::Ipv4Addr;
use std::path::Path;

/// `-p`: `[ip:][host]:container[/udp]`, `container`, and ranges of equal length on both sides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publish(pub Vec<PortMapping>);

impl std::str::FromStr for Publish {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let bad = |why: &str| format!("{why}; write [IP:][HOST:]CONTAINER[/tcp|udp], as 8080:80 or 127.0.0.1:53:53/udp");
        if text.starts_with('[') {
            return Err(bad("only IPv4 addresses can be listened on"));
        }
        let (ports, protocol) = match text.split_once('/') {
            None | Some((_, "tcp")) => (text.trim_end_matches("/tcp"), Protocol::Tcp),
            Some((ports, "udp")) => (ports, Protocol::Udp),
            Some((_, other)) => return Err(bad(&format!("`{other}` is no protocol"))),
        };
        let parts: Vec<&str> = ports.split(':').collect();
        let (ip, host, container) = match parts.as_slice() {
            [container] => (None, "", *container),
            [host, container] => (None, *host, *container),
            [ip, host, container] => (Some(*ip), *host, *container),
            _ => return Err(bad("there are too many `:`")),
        };
        let host_ip = match ip {
            None | Some("") => None,
            Some(ip) => Some(ip.parse::<Ipv4Addr>().map_err(|_| bad(&format!("`{ip}` is no IPv4 address")))?),
        };
        let range = |text: &str| -> Result<(u16, u16), String> {
            let port = |text: &str| {
                text.parse::<u16>()
                    .ok()
                    .filter(|p| *p != 0)
                    .ok_or_else(|| bad(&format!("`{text}` is no port")))
            };
            let (from, to) = text.split_once('-').unwrap_or((text, text));
            let (from, to) = (port(from)?, port(to)?);
            if from <= to && to - from < 200 {
                Ok((from, to))
            } else {
                Err(bad(&format!("`{text}` is no range of at most 200 ports")))
            }
        };
        let (first, last) = range(container)?;
        let hosts = match host {
            "" | "0" => None,
            host => {
                let (from, to) = range(host)?;
                if to - from != last - first {
                    return Err(bad("both ranges must be equally long"));
                }
                Some(from)
            }
        };
        let mappings = (first..=last).filter_map(|container| {
            let host = hosts.map_or(0, |from| from + (container - first));
            Some(PortMapping {
                container: Port::new(container)?,
                host,
                protocol,
                host_ip,
            })
        });
        Ok(Self(mappings.collect()))
    }
}

/// `-v`: `source:target[:ro]`, or `target` alone for an anonymous volume.
pub fn mount(text: &str) -> Result<VolumeMount, String> {
    let bad = |why: &str| format!("{why}; write VOLUME:/path[:ro], /path/of/node:/path[:ro] or /path");
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, mode) = match parts.as_slice() {
        [target] => (None, *target, None),
        [source, target] => (Some(*source), *target, None),
        [source, target, mode] => (Some(*source), *target, Some(*mode)),
        _ => return Err(bad("there are too many `:`")),
    };
    let mode = match mode {
        None | Some("rw") => VolumeMode::Rw,
        Some("ro") => VolumeMode::Ro,
        Some(other) => return Err(bad(&format!("`{other}` is no mode: there are ro and rw"))),
    };
    let container = ContainerPath::parse(target).map_err(|e| bad(&e.to_string()))?;
    let host = match source {
        None => None,
        Some(source) if source.starts_with('.') || source.starts_with('~') => {
            return Err(bad(&format!(
                "`{source}` is relative to this machine, but the path is one of the node: make it absolute"
            )));
        }
        Some(source) => Some(MountSource::try_from(source.to_owned()).map_err(|e| bad(&e.to_string()))?),
    };
    Ok(VolumeMount { container, host, mode })
}

/// `--device`: `/dev/fuse`, `/dev/a:/dev/b`, `/dev/a:rw`, `/dev/a:/dev/b:r`.
pub fn device(text: &str) -> Result<DeviceMapping, String> {
    let bad = |why: &str| format!("{why}; write /dev/HOST[:/dev/CONTAINER][:rwm]");
    let path = |text: &str| DevicePath::parse(text).map_err(|e| bad(&e.to_string()));
    let parts: Vec<&str> = text.split(':').collect();
    let (host, container, access) = match parts.as_slice() {
        [host] => (*host, None, None),
        [host, second] if second.starts_with('/') => (*host, Some(*second), None),
        [host, access] => (*host, None, Some(*access)),
        [host, container, access] => (*host, Some(*container), Some(*access)),
        _ => return Err(bad("there are too many `:`")),
    };
    Ok(DeviceMapping {
        host: path(host)?,
        container: container.map(path).transpose()?,
        access: access
            .map(|a| DeviceAccess::parse(a).map_err(|e| bad(&e.to_string())))
            .transpose()?,
    })
}

/// `-e`: a variable and its value, or a name alone, whose value is taken from this program's environment (nothing where
/// it has none, as docker does).
pub fn variable(text: &str) -> Result<(EnvName, Option<Argument>), String> {
    let (name, value) = text.split_once('=').map_or((text, None), |(n, v)| (n, Some(v)));
    let name = EnvName::parse(name).map_err(|e| e.to_string())?;
    let value = match value {
        Some(value) => Some(Argument::parse(value).map_err(|e| e.to_string())?),
        None => match std::env::var(name.as_str()) {
            Ok(value) => Some(Argument::parse(&value).map_err(|e| e.to_string())?),
            Err(std::env::VarError::NotPresent) => None,
            Err(std::env::VarError::NotUnicode(_)) => return Err(format!("the value of {name} in this environment is not UTF-8")),
        },
    };
    Ok((name, value))
}

/// `--env-file`: a variable a line; empty lines and lines that begin with `#` are passed over. Values are literal.
pub fn env_file(path: &Path) -> anyhow::Result<Vec<(EnvName, Option<Argument>)>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    let mut out = Vec::new();
    for (number, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
        let line = line.trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        out.push(variable(line).map_err(|e| anyhow::anyhow!("{}, line {}: {e}", path.display(), number + 1))?);
    }
    Ok(out)
}

/// `-l`: `key=value`, or a key alone with an empty value.
pub fn label(text: &str) -> Result<(LabelKey, Argument), String> {
    let (key, value) = text.split_once('=').unwrap_or((text, ""));
    Ok((
        LabelKey::parse(key).map_err(|e| e.to_string())?,
        Argument::parse(value).map_err(|e| e.to_string())?,
    ))
}

/// `-m`: `512m`, `1.5g`, `1GiB`, or bytes.
pub fn memory(text: &str) -> Result<MemoryLimit, String> {
    if let Ok(limit) = MemoryLimit::parse(text) {
        return Ok(limit);
    }
    let lower = text.trim().to_ascii_lowercase();
    let amount = lower.strip_suffix("ib").or_else(|| lower.strip_suffix('b')).unwrap_or(&lower);
    let (number, unit) = match amount.as_bytes().last() {
        Some(b'k') => (&amount[..amount.len() - 1], 1u64 << 10),
        Some(b'm') => (&amount[..amount.len() - 1], 1 << 20),
        Some(b'g') => (&amount[..amount.len() - 1], 1 << 30),
        Some(b't') => (&amount[..amount.len() - 1], 1 << 40),
        _ => (amount, 1),
    };
    let number: f64 = number
        .parse()
        .map_err(|_| format!("`{text}` is no amount of memory; write 512m, 1.5g or bytes"))?;
    let bytes = number * unit as f64;
    // The API's own bounds say what is too little or too much.
    let kib = if bytes.is_finite() && bytes >= 0.0 {
        (bytes / 1024.0).ceil() as u64
    } else {
        0
    };
    MemoryLimit::parse(MemoryLimit::from_bytes(kib << 10).as_str()).map_err(|e| e.to_string())
}

/// `--cpus`: cores.
pub fn cpus(text: &str) -> Result<CpuLimit, String> {
    let cores: f64 = text
        .parse()
        .map_err(|_| format!("`{text}` is no number of cores; write 0.5, 1 or 2"))?;
    CpuLimit::from_cores(cores).map_err(|_| "a number of cores is from 0.1 to 64".to_owned())
}

/// `--restart`.
pub fn restart(text: &str) -> Result<RestartPolicy, String> {
    match text {
        "no" => Ok(RestartPolicy::No),
        "always" => Ok(RestartPolicy::Always),
        "on-failure" => Ok(RestartPolicy::OnFailure),
        "unless-stopped" => Ok(RestartPolicy::UnlessStopped),
        _ if text.starts_with("on-failure:") => Err("on-failure takes no count here: it goes on until it succeeds".to_owned()),
        _ => Err("there are no, always, on-failure and unless-stopped".to_owned()),
    }
}

/// A span: `30s`, `5m`, `1h30m`, `2d`, or seconds alone.
pub fn seconds(text: &str) -> Result<u64, String> {
    let bad = || format!("`{text}` is no span of time; write 30s, 5m, 1h30m or 2d");
    if let Ok(seconds) = text.parse() {
        return Ok(seconds);
    }
    let (mut total, mut digits) = (0u64, String::new());
    for c in text.chars() {
        if c.is_ascii_digit() {
            digits.push(c);
            continue;
        }
        let unit = match c {
            's' => 1,
            'm' => 60,
            'h' => 3600,
            'd' => 86_400,
            'w' => 7 * 86_400,
            _ => return Err(bad()),
        };
        let number: u64 = std::mem::take(&mut digits).parse().map_err(|_| bad())?;
        total = number.checked_mul(unit).and_then(|n| total.checked_add(n)).ok_or_else(bad)?;
    }
    if digits.is_empty() && !text.is_empty() {
        Ok(total)
    } else {
        Err(bad())
    }
}

/// `--since`, `--until`: RFC 3339, a date, unix seconds, or a span before now (`10m`).
pub fn moment(text: &str) -> Result<nm_types::Timestamp, String> {
    let bad = || format!("`{text}` is no time; write 10m for ten minutes ago, 2026-02-03T02:30:00Z, 2026-02-03 or unix seconds");
    if let Some(time) = nm_types::Timestamp::parse(text) {
        return Ok(time);
    }
    if let Some(time) = nm_types::Timestamp::parse(&format!("{text}T00:00:00Z")) {
        return Ok(time);
    }
    if text.len() >= 9
        && let Ok(unix) = text.parse::<i64>()
    {
        return unix.checked_mul(1000).map(nm_types::Timestamp::from_millis).ok_or_else(bad);
    }
    let ms = seconds(text)
        .ok()
        .and_then(|s| i64::try_from(s).ok()?.checked_mul(1000))
        .ok_or_else(bad)?;
    Ok(crate::client::now().plus_millis(-ms))
}

/// A command line in one text, cut into words as a shell would, without anything else a shell does.
pub fn words(text: &str) -> Result<Vec<Word>, String> {
    let (mut out, mut word, mut in_word) = (Vec::new(), String::new(), false);
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\'' | '"' => {
                in_word = true;
                loop {
                    match chars.next() {
                        None => return Err(format!("a {c} is not closed")),
                        Some(end) if end == c => break,
                        Some('\\') if c == '"' => word.push(chars.next().ok_or("it ends with a \\")?),
                        Some(other) => word.push(other),
                    }
                }
            }
            '\\' => {
                in_word = true;
                word.push(chars.next().ok_or("it ends with a \\")?);
            }
            c if c.is_whitespace() => {
                if std::mem::take(&mut in_word) {
                    out.push(std::mem::take(&mut word));
                }
            }
            c => {
                in_word = true;
                word.push(c);
            }
        }
    }
    if in_word {
        out.push(word);
    }
    if out.is_empty() {
        return Err("it holds no command".to_owned());
    }
    out.iter().map(|w| Word::parse(w).map_err(|e| e.to_string())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> Result<Vec<String>, String> {
        let publish: Publish = text.parse()?;
        let one = |p: &PortMapping| {
            let ip = p.host_ip.map(|ip| format!("{ip}:")).unwrap_or_default();
            format!(
                "{ip}{}->{}/{}",
                p.host,
                p.container,
                if p.protocol == Protocol::Udp { "udp" } else { "tcp" }
            )
        };
        Ok(publish.0.iter().map(one).collect())
    }

    #[test]
    fn ports_are_dockers() {
        for (text, expected) in [
            ("8080:80", vec!["8080->80/tcp"]),
            ("80", vec!["0->80/tcp"]),
            ("0:80", vec!["0->80/tcp"]),
            (":80", vec!["0->80/tcp"]),
            ("53:53/udp", vec!["53->53/udp"]),
            ("80:80/tcp", vec!["80->80/tcp"]),
            ("127.0.0.1:8080:80", vec!["127.0.0.1:8080->80/tcp"]),
            ("127.0.0.1::80/udp", vec!["127.0.0.1:0->80/udp"]),
            ("8000-8001:80-81", vec!["8000->80/tcp", "8001->81/tcp"]),
            ("9000-9001", vec!["0->9000/tcp", "0->9001/tcp"]),
        ] {
            assert_eq!(shown(text).unwrap(), expected, "{text}");
        }
        for bad in [
            "",
            "x:80",
            "80:x",
            "0",
            "8080:0",
            "70000:80",
            "80:70000",
            "1:2:3:4",
            "::1:80:80",
            "[::1]:80:80",
            "host:80:80",
            "80/sctp",
            "1-3:1-2",
            "3-1",
            "1-1000:1-1000",
            "-80",
        ] {
            assert!(shown(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn mounts_are_dockers() {
        let mount_of = |text: &str| mount(text).map(|m| (m.host.map(String::from), m.container.as_str().to_owned(), m.mode));
        assert_eq!(
            mount_of("data:/var/lib"),
            Ok((Some("data".into()), "/var/lib".into(), VolumeMode::Rw))
        );
        assert_eq!(
            mount_of("/srv/www:/www:ro"),
            Ok((Some("/srv/www".into()), "/www".into(), VolumeMode::Ro))
        );
        assert_eq!(mount_of("/cache"), Ok((None, "/cache".into(), VolumeMode::Rw)));
        for bad in [
            "",
            "data",
            "data:www",
            "data:/www:rx",
            "./www:/www",
            "~/www:/www",
            "../x:/y",
            "/a/../b:/c",
            "a:/b:ro:x",
            "-x:/y",
            "/srv:/",
        ] {
            assert!(mount_of(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn variables() {
        let read = |text: &str| variable(text).map(|(n, v)| (n.as_str().to_owned(), v.map(String::from)));
        assert_eq!(read("A=b=c"), Ok(("A".into(), Some("b=c".into()))));
        assert_eq!(read("A="), Ok(("A".into(), Some(String::new()))));
        assert_eq!(read("NEURALMESH_SURELY_NOT_SET"), Ok(("NEURALMESH_SURELY_NOT_SET".into(), None)));
        assert!(read("CARGO_PKG_NAME").unwrap().1.is_some());
        for bad in ["", "=x", "A B=c", "1A=x"] {
            assert!(read(bad).is_err(), "{bad}");
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "# a comment\n\n  A=1 # kept\r\nB=\"quotes stay\"\n").unwrap();
        let read: Vec<_> = env_file(file.path())
            .unwrap()
            .into_iter()
            .map(|(n, v)| format!("{n}={}", v.unwrap()))
            .collect();
        assert_eq!(read, ["A=1 # kept", "B=\"quotes stay\""]);
        std::fs::write(file.path(), "A=1\nnot a name=2\n").unwrap();
        assert!(env_file(file.path()).unwrap_err().to_string().contains("line 2"));
    }

    #[test]
    fn amounts() {
        for (text, kept) in [
            ("512m", "512m"),
            ("1g", "1g"),
            ("1.5g", "1536m"),
            ("1GiB", "1g"),
            ("64MB", "64m"),
            ("67108864", "64m"),
            ("67108864b", "64m"),
            ("67108865", "65537k"),
        ] {
            assert_eq!(memory(text).unwrap().as_str(), kept, "{text}");
        }
        for bad in ["", "lots", "1m", "-1g", "1e400g", "nan", "99999t"] {
            assert!(memory(bad).is_err(), "{bad}");
        }
        assert_eq!(cpus("1.5").unwrap().cores(), 1.5);
        assert!(cpus("0").is_err() && cpus("x").is_err() && cpus("65").is_err());
        assert!(restart("on-failure:3").unwrap_err().contains("no count"));
    }

    #[test]
    fn times() {
        for (text, expected) in [
            ("30", 30),
            ("30s", 30),
            ("5m", 300),
            ("1h30m", 5400),
            ("2d", 172_800),
            ("1w", 604_800),
        ] {
            assert_eq!(seconds(text), Ok(expected), "{text}");
        }
        for bad in ["", "m", "5", "5x", "-5m", "1h30", "99999999999999999999d"]
            .into_iter()
            .filter(|t| *t != "5")
        {
            assert!(seconds(bad).is_err(), "{bad}");
        }
        assert_eq!(moment("2026-02-03T02:30:00Z").unwrap().as_millis(), 1_770_085_800_000);
        assert_eq!(moment("2026-02-03").unwrap().as_millis(), 1_770_076_800_000);
        assert_eq!(moment("1770085800").unwrap().as_millis(), 1_770_085_800_000);
        let ago = crate::client::now().since(moment("10m").unwrap());
        assert!((599_000..=601_000).contains(&ago), "{ago}");
        assert!(moment("yesterday").is_err());
    }

    #[test]
    fn words_are_cut_as_a_shell_would() {
        let cut = |text: &str| words(text).map(|w| w.into_iter().map(String::from).collect::<Vec<_>>());
        assert_eq!(
            cut(r#"curl -f "http://x/a b" 'c"d' e\ f"#).unwrap(),
            ["curl", "-f", "http://x/a b", "c\"d", "e f"]
        );
        assert_eq!(cut("a '' b").unwrap(), ["a", "", "b"]);
        assert_eq!(cut("echo $HOME `id` | cat").unwrap(), ["echo", "$HOME", "`id`", "|", "cat"]);
        for bad in ["", "  ", "a 'b", "a \"b", "a\\"] {
            assert!(cut(bad).is_err(), "{bad}");
        }
    }
}

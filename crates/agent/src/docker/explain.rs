//! What Docker says, put as a sentence that says which thing is wrong and what to do.
//!
//! Docker's HTTP statuses are coarse (a taken port is a 500), so its messages are read too. They are those of 20.10 to 28;
//! one that is not known is passed on as it is.

use super::client::DockerError;
use nm_link::contract::{AgentError, AgentErrorCode as Code};

/// Any failed call, without knowledge of what it was for.
pub fn explain(error: DockerError, socket: &str) -> AgentError {
    match error {
        DockerError::Refused { status, message } => refused(status, &message),
        DockerError::Unreachable { permission: true, .. } => AgentError::new(
            Code::DockerUnavailable,
            format!("The agent may not open Docker's socket {socket}. Run it as root, or as a user in the group `docker`."),
        ),
        DockerError::Unreachable { source, .. } => AgentError::new(Code::DockerUnavailable, absent(socket, &source.to_string())),
        DockerError::Broken(source) => AgentError::new(Code::DockerUnavailable, absent(socket, &format!("the connection broke: {source}"))),
        e @ DockerError::Deadline { .. } => AgentError::new(Code::Timeout, sentence(&e.to_string())),
        e @ DockerError::Nonsense { .. } => AgentError::new(Code::Internal, sentence(&e.to_string())),
    }
}

/// That there is no engine, and how to get one.
pub fn absent(socket: &str, cause: &str) -> String {
    format!(
        "The Docker engine does not answer on {socket} ({cause}). Start it, for instance with `systemctl start docker`; the node comes back by itself."
    )
}

/// A refusal, by what its message says.
pub fn refused(status: u16, message: &str) -> AgentError {
    let has = |needle: &str| message.contains(needle);
    let code = if has("no space left on device") || has("disk quota exceeded") {
        return AgentError::new(
            Code::DiskFull,
            format!("The node's disk is full: free some space, for instance by pruning images. Docker says: {message}"),
        );
    } else if let Some(error) = program(message) {
        return error;
    } else if has("No such container") {
        Code::ContainerNotFound
    } else if has("No such image") || has("no such image") {
        Code::ImageNotFound
    } else if has("no such volume") {
        Code::VolumeNotFound
    } else if status == 404 && (has("network ") || has("No such network")) {
        Code::NetworkNotFound
    } else if has("is already in use by container") || has("already exists") {
        Code::NameTaken
    } else if has("is not running") {
        Code::NotRunning
    } else if has("is paused") || has("paused container") {
        Code::Paused
    } else if has("pre-defined network") || has("host network") {
        Code::Forbidden
    } else if has("volume is in use") || has("active endpoints") || has("is using its referenced image") || has("is being used by") {
        Code::InUse
    } else if has("non-overlapping IPv4 address pool") || has("fully subnetted") || has("no available IPv4 addresses") {
        Code::InsufficientResources
    } else {
        match status {
            // An archive that can't be unpacked: a link without its target, for one.
            500 if has("Error processing tar file") => Code::Invalid,
            400 | 404 | 406 => Code::Invalid,
            403 => Code::Forbidden,
            409 => Code::InUse,
            501 => Code::Invalid,
            _ => Code::Internal,
        }
    };
    AgentError::new(code, sentence(message))
}

/// What kept the program from starting, from the runtime's message; `None` where the message is about something else.
///
/// The runtime says `OCI runtime create failed: … unable to start container process: exec: "x": executable file not found in
/// $PATH: unknown`, in words that changed little between its versions.
pub fn program(message: &str) -> Option<AgentError> {
    let missing_user = message.contains("unable to find user") || message.contains("unable to find group");
    if !missing_user && !message.contains("OCI runtime") && !message.contains("unable to start container process") {
        return None;
    }
    let core = ["unable to start container process: ", "starting container process caused: "]
        .iter()
        .find_map(|marker| message.split_once(marker).map(|(_, rest)| rest))
        .unwrap_or(message)
        .trim()
        .trim_end_matches(": unknown")
        .trim_start_matches("error during container init: ");
    let program = core
        .split_once("exec: \"")
        .and_then(|(_, rest)| rest.split_once('"'))
        .map(|(name, _)| name);
    let fail = |field: &str, text: String| Some(AgentError::new(Code::CommandFailed, text).field(field));
    match program {
        _ if missing_user => {
            let who = core.split(": ").next().unwrap_or(core).rsplit(' ').next().unwrap_or_default();
            let what = if core.contains("find group") { "group" } else { "user" };
            fail(
                "user",
                format!("There is no {what} `{who}` in the image: name one it has, or a number."),
            )
        }
        Some(name) if core.contains("executable file not found") || core.contains("no such file or directory") => fail(
            "command",
            format!(
                "The program `{name}` was not found in the image: look at `command` and `entrypoint`, or at what the image has installed."
            ),
        ),
        Some(name) if core.contains("permission denied") => fail(
            "command",
            format!("`{name}` may not be executed in the image: it is a folder, lacks the execute bit, or is not for this user."),
        ),
        _ if core.contains("exec format error") => fail(
            "image",
            "The program is made for another kind of processor: use an image for this node's architecture.".to_owned(),
        ),
        _ if core.contains("chdir to cwd") => {
            let dir = core.split_once("(\"").and_then(|(_, r)| r.split_once('"')).map_or("", |(d, _)| d);
            fail(
                "workingDir",
                format!("The working folder `{dir}` can't be entered: it is not in the image, or is not a folder."),
            )
        }
        _ if core.contains("error mounting") || core.contains("to rootfs") => Some(
            AgentError::new(
                Code::Invalid,
                format!("A volume can't be mounted; a folder must lie on a folder, and a file on a file. Docker says: {core}."),
            )
            .field("volumes"),
        ),
        _ => Some(AgentError::new(
            Code::CommandFailed,
            format!("The container's program could not be started: {core}."),
        )),
    }
}

/// The host port that a start failed on: of `Bind for 0.0.0.0:8080 failed: port is already allocated`, `listen tcp4
/// 0.0.0.0:8080: bind: address already in use`, `failed to bind host port for 0.0.0.0:8080:172.17.0.2:80/tcp: …`.
pub fn taken_port(message: &str) -> Option<u16> {
    if !message.contains("port is already allocated") && !message.contains("address already in use") {
        return None;
    }
    let after = [
        "failed to bind host port for ",
        "failed to bind host port ",
        "Bind for ",
        "listen tcp4 ",
        "listen tcp6 ",
        "listen tcp ",
        "listen udp4 ",
        "listen udp6 ",
        "listen udp ",
        "exposing port ",
    ]
    .iter()
    .find_map(|marker| message.split_once(marker).map(|(_, rest)| rest))?;
    let address = after.split_whitespace().next()?;
    let address = address.split('/').next().unwrap_or(address);
    // `0.0.0.0:8080:172.17.0.2:80` names the container's side too; `[::]:8080` and `:::8080` have colons of their own.
    let host_side = match (address.strip_prefix('['), address.strip_prefix(":::")) {
        (Some(v6), _) => v6.split_once("]:")?.1,
        (None, Some(any)) => any,
        (None, None) => address.split_once(':')?.1,
    };
    host_side.split(':').next()?.parse().ok()
}

/// What kept an image from being pulled. `login` says whether a login was sent along.
pub fn pull(image: &str, registry: Option<&str>, message: &str, login: bool) -> AgentError {
    let lower = message.to_ascii_lowercase();
    let has = |needle: &str| lower.contains(needle);
    let registry = registry.unwrap_or("Docker Hub");
    if has("no space left on device") {
        return AgentError::new(
            Code::DiskFull,
            format!("The node's disk is full; `{image}` could not be pulled. Free some space, for instance by pruning images."),
        );
    }
    let (code, text) = if has("manifest unknown")
        || has("name unknown")
        || has("repository name not known")
        || (has("manifest for") && has("not found"))
    {
        (
            Code::ImageNotFound,
            format!("{registry} has no image `{image}`: look at its name and tag."),
        )
    } else if has("no matching manifest") {
        (
            Code::ImageNotFound,
            format!("`{image}` is not made for this node's kind of processor."),
        )
    } else if has("toomanyrequests") || has("too many requests") {
        (
            Code::PullFailed,
            format!("{registry} refuses more pulls for now; log in to it, or try again later. It says: {message}"),
        )
    } else if has("repository does not exist or may require") && !login {
        (
            Code::ImageNotFound,
            format!("{registry} has no image `{image}`, or it is private: look at its name, or add a login for the registry."),
        )
    } else if has("unauthorized")
        || has("authentication required")
        || has("no basic auth credentials")
        || has("incorrect username or password")
        || has("denied")
    {
        let what = if login {
            "refused the login for"
        } else {
            "asks for a login to pull"
        };
        (
            Code::ImageAccessDenied,
            format!(
                "{registry} {what} `{image}`. {}",
                if login {
                    "Look at its username and password."
                } else {
                    "Add a login for the registry."
                }
            ),
        )
    } else if has("server gave http response to https client") || has("x509") || has("certificate") {
        (
            Code::PullFailed,
            format!(
                "{registry} can't be trusted for `{image}`: its certificate is not valid for the node's Docker engine. It says: {message}"
            ),
        )
    } else if has("invalid reference format") {
        (Code::Invalid, format!("`{image}` is not an image's name."))
    } else {
        (
            Code::PullFailed,
            format!(
                "{registry} could not be reached to pull `{image}`, or the pull broke off; trying again goes on where it stopped. Docker says: {message}"
            ),
        )
    };
    AgentError::new(code, sentence(&text)).field("image")
}

/// Starts with a capital and ends with a full stop.
pub fn sentence(text: &str) -> String {
    let text = text.trim();
    let mut chars = text.chars();
    let mut out: String = chars.next().map(|c| c.to_uppercase().collect()).unwrap_or_default();
    out.push_str(chars.as_str());
    if !out.ends_with(['.', '!', '?', ':']) {
        out.push('.');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_become_codes() {
        for (status, message, code) in [
            (404, "No such container: nmy", Code::ContainerNotFound),
            (404, "No such image: nosuch:latest", Code::ImageNotFound),
            (404, "network nonet not found", Code::NetworkNotFound),
            (404, "get nmvol: no such volume", Code::VolumeNotFound),
            (
                409,
                "Conflict. The container name \"/nmx\" is already in use by container \"f149\". You have to remove (or rename) that container to be able to reuse that name.",
                Code::NameTaken,
            ),
            (409, "network with name x already exists", Code::NameTaken),
            (409, "Container f149 is not running", Code::NotRunning),
            (409, "Container nmx is paused, unpause the container before exec", Code::Paused),
            (403, "bridge is a pre-defined network and cannot be removed", Code::Forbidden),
            (409, "remove x: volume is in use - [f149]", Code::InUse),
            (
                409,
                "conflict: unable to remove repository reference \"busybox:latest\" (must force) - container f149cf17cdad is using its referenced image 6a1a7e477b0d",
                Code::InUse,
            ),
            (
                403,
                "error while removing network: network x id y has active endpoints",
                Code::InUse,
            ),
            (500, "write /x: no space left on device", Code::DiskFull),
            (400, "Minimum memory limit allowed is 6MB", Code::Invalid),
            (500, "something new", Code::Internal),
        ] {
            assert_eq!(refused(status, message).code, code, "{message}");
        }
    }

    #[test]
    fn programs_that_do_not_start() {
        let runc = "failed to create shim task: OCI runtime create failed: runc create failed: unable to start container process: ";
        for (message, field, part) in [
            (format!("{runc}exec: \"nope\": executable file not found in $PATH: unknown"), Some("command"), "`nope` was not found"),
            (format!("{runc}exec: \"/x/y\": stat /x/y: no such file or directory: unknown"), Some("command"), "`/x/y` was not found"),
            (format!("{runc}exec: \"/etc\": permission denied: unknown"), Some("command"), "may not be executed"),
            (format!("{runc}chdir to cwd (\"/nope\") set in config.json failed: no such file or directory: unknown"), Some("workingDir"), "`/nope`"),
            ("unable to find user nouser: no matching entries in passwd file".into(), Some("user"), "no user `nouser`"),
            ("unable to find group g: no matching entries in group file".into(), Some("user"), "no group `g`"),
            ("OCI runtime create failed: container_linux.go:380: starting container process caused: exec: \"a\": executable file not found in $PATH: unknown".into(), Some("command"), "`a` was not found"),
            (format!("{runc}error during container init: exec /x: exec format error: unknown"), Some("image"), "processor"),
            (format!("{runc}something else: unknown"), None, "something else."),
        ] {
            let error = program(&message).unwrap();
            assert_eq!(error.code, Code::CommandFailed, "{message}");
            assert_eq!(error.field.as_deref(), field, "{message}");
            assert!(error.message.contains(part), "{}", error.message);
        }
        let mount = format!(
            "{runc}error during container init: error mounting \"/etc/passwd/x\" to rootfs at \"/y\": stat /etc/passwd/x: not a directory: unknown"
        );
        assert_eq!(program(&mount).unwrap().code, Code::Invalid);
        assert_eq!(program("No such container: x"), None);
    }

    #[test]
    fn ports_are_found_in_messages() {
        for (message, port) in [
            (
                "driver failed programming external connectivity on endpoint nmw (9be3): Bind for 0.0.0.0:22223 failed: port is already allocated",
                Some(22223),
            ),
            (
                "driver failed programming external connectivity on endpoint nmw (63a6): Error starting userland proxy: listen tcp4 0.0.0.0:22223: bind: address already in use",
                Some(22223),
            ),
            (
                "failed to set up container networking: driver failed programming external connectivity on endpoint x (1): failed to bind host port for 0.0.0.0:8080:172.17.0.2:80/tcp: address already in use",
                Some(8080),
            ),
            ("failed to bind host port 127.0.0.1:8080/tcp: address already in use", Some(8080)),
            ("Bind for [::]:53 failed: port is already allocated", Some(53)),
            ("Bind for :::32830 failed: port is already allocated", Some(32_830)),
            ("Bind for 0.0.0.0:22223 failed: nothing known", None),
            ("port is already allocated", None),
        ] {
            assert_eq!(taken_port(message), port, "{message}");
        }
    }

    #[test]
    fn pulls_that_fail_are_told_apart() {
        for (message, login, code) in [
            (
                "manifest for nginx:nope not found: manifest unknown: manifest unknown",
                false,
                Code::ImageNotFound,
            ),
            ("manifest unknown", true, Code::ImageNotFound),
            (
                "pull access denied for x, repository does not exist or may require 'docker login': denied: requested access to the resource is denied",
                false,
                Code::ImageNotFound,
            ),
            (
                "pull access denied for x, repository does not exist or may require 'docker login': denied: requested access to the resource is denied",
                true,
                Code::ImageAccessDenied,
            ),
            (
                "Get \"http://r/v2/x/manifests/latest\": unauthorized: authentication required",
                true,
                Code::ImageAccessDenied,
            ),
            ("Head \"http://r/v2/\": no basic auth credentials", false, Code::ImageAccessDenied),
            (
                "Get \"http://localhost:1/v2/\": dial tcp 127.0.0.1:1: connect: connection refused",
                false,
                Code::PullFailed,
            ),
            (
                "Get \"https://registry-1.docker.io/v2/\": dial tcp: lookup registry-1.docker.io: no such host",
                false,
                Code::PullFailed,
            ),
            ("unexpected EOF", false, Code::PullFailed),
            ("toomanyrequests: You have reached your pull rate limit", false, Code::PullFailed),
            ("write /var/lib/docker/tmp/x: no space left on device", false, Code::DiskFull),
        ] {
            assert_eq!(pull("x", None, message, login).code, code, "{message}");
        }
    }
}

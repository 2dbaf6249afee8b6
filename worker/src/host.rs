//! Which `Host` a request to a loopback listener may have.
//!
//! A web page can make its own name mean 127.0.0.1 after it was loaded, and a browser on this machine then sends
//! its requests here, with that name. The invariant: a name that passes is one that no stranger can give away:
//! an address, `localhost`, or a name of the configuration.

/// Whether the host in `host` (a name or address with an optional port) is this machine's own: an IP address,
/// `localhost`, one of `names`, or a name below one of them.
#[inline]
pub fn is_own(host: &str, names: &[String]) -> bool {
    let name_end = host.bytes().position(|byte| byte == b':');
    let name = &host.as_bytes()[..name_end.unwrap_or(host.len())];
    // Names cannot consist of digits alone: the last part of a domain never does.
    let is_address = !name.is_empty()
        && name
            .iter()
            .all(|byte| byte.is_ascii_digit() || *byte == b'.');
    is_address || is_own_name(host, names)
}

#[cold]
fn is_own_name(host: &str, names: &[String]) -> bool {
    if host.starts_with('[') {
        return true;
    }
    let name = host.split(':').next().unwrap_or_default();
    let name = name.strip_suffix('.').unwrap_or(name);
    is_at_or_below(name, "localhost") || names.iter().any(|known| is_at_or_below(name, known))
}

fn is_at_or_below(name: &str, domain: &str) -> bool {
    let Some(split) = name.len().checked_sub(domain.len()) else {
        return false;
    };
    let (front, back) = name.as_bytes().split_at(split);
    !domain.is_empty()
        && back.eq_ignore_ascii_case(domain.as_bytes())
        && (front.is_empty() || front.ends_with(b"."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_localhost_and_configured_names_pass_and_nothing_else() {
        let names = ["s3.example.com".to_owned()];
        for host in [
            "127.0.0.1",
            "127.0.0.1:7480",
            "10.1.2.3",
            "[::1]:80",
            "localhost",
            "LocalHost:7401",
            "localhost.",
            "lake.localhost",
            "s3.example.com",
            "lake.S3.example.com:443",
        ] {
            assert!(is_own(host, &names), "{host}");
        }
        for host in [
            "",
            ":80",
            "x",
            "evil.example",
            "127.0.0.1.evil.example",
            "1.evil.example:7480",
            "localhost.evil.example",
            "notlocalhost",
            "evils3.example.com",
            "example.com",
        ] {
            assert!(!is_own(host, &names), "{host}");
        }
        assert!(!is_own("x", &[String::new()]));
    }
}

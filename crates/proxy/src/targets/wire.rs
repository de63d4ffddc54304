//! The strictest reader of a request: one form for everything, as the most old-fashioned of members would have it.

/// Why the bytes are not one plain request.
pub type Wrong = String;

/// How much of a request there is.
#[derive(Debug, PartialEq, Eq)]
pub enum Read {
    Whole,
    /// It was broken off; a member waits for more, and gets none.
    Part,
}

/// Reads bytes as a member receives them.
pub fn read(bytes: &[u8]) -> Result<Read, Wrong> {
    let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") else {
        return Ok(Read::Part);
    };
    let (head, body) = (&bytes[..end], &bytes[end + 4..]);
    let mut lines = split(head);
    request_line(lines.next().unwrap_or_default())?;
    let (mut lengths, mut chunked, mut hosts) = (Vec::new(), false, 0);
    for line in lines {
        let colon = line.iter().position(|b| *b == b':').ok_or_else(|| format!("no colon: {line:?}"))?;
        let (name, value) = (&line[..colon], &line[colon + 1..]);
        if name.is_empty() || !name.iter().all(|b| is_token(*b)) {
            return Err(format!("a name: {name:?}"));
        }
        if value.iter().any(|b| matches!(b, 0..=8 | 10..=31 | 127)) {
            return Err(format!("a value: {value:?}"));
        }
        match name.to_ascii_lowercase().as_slice() {
            b"content-length" => lengths.push(number(value.trim_ascii(), 10)?),
            b"transfer-encoding" if value.trim_ascii() == b"chunked" && !chunked => chunked = true,
            b"transfer-encoding" => return Err(format!("an encoding: {value:?}")),
            b"host" => hosts += 1,
            b"content_length" | b"transfer_encoding" | b"connection" | b"te" | b"trailer" | b"keep-alive" => {
                return Err(format!("{} went on", String::from_utf8_lossy(name)));
            }
            _ => {}
        }
    }
    if hosts > 1 || lengths.len() + usize::from(chunked) > 1 {
        return Err(format!("{hosts} hosts, {} lengths, chunked: {chunked}", lengths.len()));
    }
    if chunked {
        return chunks(body);
    }
    let length = lengths.first().copied().unwrap_or(0);
    match (body.len() as u64).cmp(&length) {
        std::cmp::Ordering::Less => Ok(Read::Part),
        std::cmp::Ordering::Equal => Ok(Read::Whole),
        std::cmp::Ordering::Greater => Err("bytes after the end".to_owned()),
    }
}

fn split(head: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(head);
    std::iter::from_fn(move || {
        let now = rest?;
        let end = now.windows(2).position(|w| w == b"\r\n");
        rest = end.map(|end| &now[end + 2..]);
        Some(&now[..end.unwrap_or(now.len())])
    })
}

fn request_line(line: &[u8]) -> Result<(), Wrong> {
    let words: Vec<_> = line.split(|b| *b == b' ').collect();
    let [method, target, b"HTTP/1.1"] = words.as_slice() else {
        return Err(format!("a request line: {line:?}"));
    };
    let printable = target.iter().all(|b| *b > b' ' && *b != 127);
    if method.is_empty() || !method.iter().all(|b| is_token(*b)) || !printable || !(target.starts_with(b"/") || *target == b"*") {
        return Err(format!("a request line: {line:?}"));
    }
    Ok(())
}

fn chunks(mut body: &[u8]) -> Result<Read, Wrong> {
    loop {
        let Some(end) = body.windows(2).position(|w| w == b"\r\n") else {
            return Ok(Read::Part);
        };
        let size = usize::try_from(number(&body[..end], 16)?).map_err(|e| e.to_string())?;
        body = &body[end + 2..];
        let Some(after) = body.get(size..).filter(|after| after.len() >= 2) else {
            return Ok(Read::Part);
        };
        if !after.starts_with(b"\r\n") {
            return Err("a chunk has no end".to_owned());
        }
        body = &after[2..];
        if size == 0 {
            return if body.is_empty() {
                Ok(Read::Whole)
            } else {
                Err("bytes after the end".to_owned())
            };
        }
    }
}

fn number(text: &[u8], radix: u32) -> Result<u64, Wrong> {
    let plain = !text.is_empty() && text.iter().all(|b| char::from(*b).is_digit(radix));
    let text = std::str::from_utf8(text).ok().filter(|_| plain);
    let number = text.and_then(|text| u64::from_str_radix(text, radix).ok());
    number.ok_or_else(|| format!("a number: {text:?}"))
}

fn is_token(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b)
}

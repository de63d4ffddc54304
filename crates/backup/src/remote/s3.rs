//! Amazon's S3 and what speaks like it, in restic's own layout.

use super::{
    Objects,
    web::{ask, client, range_header},
};
use crate::failure::{Result, failed};
use bytes::Bytes;
use nm_types::backup::job::{Hidden, JobErrorCode};
use reqwest::{Method, blocking::Client, header::RANGE};
use rusty_s3::{Bucket, Credentials, S3Action, UrlStyle, actions::ListObjectsV2};
use std::{
    fmt,
    io::{self, ErrorKind as Io},
    time::Duration,
};

/// How long a signature is good; a request is sent at once.
const SIGNED: Duration = Duration::from_secs(15 * 60);

pub struct S3 {
    client: Client,
    bucket: Bucket,
    credentials: Credentials,
    prefix: String,
    name: String,
}

impl fmt::Debug for S3 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("S3").field(&self.name).finish()
    }
}

impl S3 {
    pub fn new(
        endpoint: &str,
        bucket: &str,
        prefix: &str,
        region: &str,
        access_key: &Hidden,
        secret_key: &Hidden,
        allow: &[String],
    ) -> Result<Self> {
        let (client, url) = client(endpoint, allow)?;
        let name = format!("s3:{url}{bucket}/{prefix}");
        let bucket = Bucket::new(url, UrlStyle::Path, bucket.to_owned(), region.to_owned())
            .map_err(|error| failed(JobErrorCode::Forbidden, format!("The destination {name} is wrong: {error}.")))?;
        Ok(Self {
            client,
            bucket,
            credentials: Credentials::new(access_key.0.clone(), secret_key.0.clone()),
            prefix: if prefix.is_empty() { String::new() } else { format!("{prefix}/") },
            name,
        })
    }

    fn key(&self, folder: &str, name: &str) -> String {
        match folder {
            "" => format!("{}{name}", self.prefix),
            "data" => format!("{}data/{}/{name}", self.prefix, name.get(..2).unwrap_or("00")),
            _ => format!("{}{folder}/{name}", self.prefix),
        }
    }
}

impl Objects for S3 {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn list(&self, folder: &str) -> io::Result<Vec<(String, u64)>> {
        let prefix = format!("{}{folder}/", self.prefix);
        let mut found = Vec::new();
        let mut token: Option<String> = None;
        loop {
            let answer = ask(&self.client, || {
                let mut action = self.bucket.list_objects_v2(Some(&self.credentials));
                action.with_prefix(prefix.clone());
                if let Some(token) = &token {
                    action.with_continuation_token(token.clone());
                }
                self.client.get(action.sign(SIGNED)).build()
            })?;
            let page =
                ListObjectsV2::parse_response(std::str::from_utf8(&answer.body).map_err(io::Error::other)?).map_err(io::Error::other)?;
            for object in page.contents {
                if let Some((_, name)) = object.key.rsplit_once('/') {
                    found.push((name.to_owned(), object.size.unwrap_or(0)));
                }
            }
            token = page.next_continuation_token;
            if token.is_none() {
                return Ok(found);
            }
        }
    }

    fn get(&self, folder: &str, name: &str, range: Option<(u32, u32)>) -> io::Result<Bytes> {
        let key = self.key(folder, name);
        let header = range.map(range_header).transpose()?;
        let answer = ask(&self.client, || {
            let mut request = self.client.get(self.bucket.get_object(Some(&self.credentials), &key).sign(SIGNED));
            if let Some(header) = &header {
                request = request.header(RANGE, header);
            }
            request.build()
        })?;
        Ok(answer.part(range))
    }

    fn put(&self, folder: &str, name: &str, bytes: Bytes) -> io::Result<()> {
        let key = self.key(folder, name);
        ask(&self.client, || {
            let url = self.bucket.put_object(Some(&self.credentials), &key).sign(SIGNED);
            self.client.put(url).body(bytes.clone()).build()
        })
        .map(drop)
    }

    fn delete(&self, folder: &str, name: &str) -> io::Result<()> {
        let key = self.key(folder, name);
        ask(&self.client, || {
            self.client
                .delete(self.bucket.delete_object(Some(&self.credentials), &key).sign(SIGNED))
                .build()
        })
        .map(drop)
    }

    /// Folders are not made; the bucket is the user's own.
    fn create(&self) -> io::Result<()> {
        Ok(())
    }

    fn takes_notes(&self) -> bool {
        true
    }

    fn config(&self) -> io::Result<Option<u64>> {
        let key = self.key("", "config");
        let asked = ask(&self.client, || {
            let url = self.bucket.head_object(Some(&self.credentials), &key).sign(SIGNED);
            self.client.request(Method::HEAD, url).build()
        });
        match asked {
            Ok(answer) => Ok(Some(answer.length().unwrap_or(0))),
            // A bucket that is not there answers alike: its list tells the two apart.
            Err(error) if error.kind() == Io::NotFound => self.list("keys").map(|_| None),
            Err(error) => Err(error),
        }
    }
}

//! Certificates as the API shows them.

use super::rows::directory;
use crate::service::clusters::tls::RENEW_BEFORE_MS;
use crate::service::clusters::{ClusterRow, Clusters, tls};
use nm_types::Timestamp;
use nm_types::cluster::{AcmeStatus, ClusterAcme, ClusterAcmeView, ClusterTls, ClusterTlsView};

impl Clusters {
    pub(in crate::service::clusters) fn tls_view(&self, row: &ClusterRow, asked: &ClusterTls) -> ClusterTlsView {
        let pair = self.pair_in_force(row);
        let given = self.given(row).is_some_and(|c| c.pair.is_some());
        ClusterTlsView {
            self_signed: asked.self_signed || (asked.acme.is_some() && !given),
            acme: asked.acme.as_ref().map(|acme| self.acme_view(row, acme)),
            server_names: asked.server_names.iter().map(ToString::to_string).collect(),
            expires: pair.as_ref().and_then(|p| tls::expires(&p.certificate)),
            certificate: pair.map(|p| p.certificate).unwrap_or_default(),
        }
    }

    fn acme_view(&self, row: &ClusterRow, asked: &ClusterAcme) -> ClusterAcmeView {
        let given = self.given(row).unwrap_or_default();
        let (state, got) = (&given.state, given.state.got.as_ref());
        let wish = super::Asked::of(row);
        let due = wish.as_ref().map(|asked| given.due(asked)).filter(|at| *at > Timestamp(0));
        // What failed for other names than those of the certificate that is in force, which are wanted again, is of the past.
        let failed =
            state.failures > 0 && wish.is_none_or(|asked| state.tried_for == asked.digest || got.is_none_or(|got| got.wish != asked.wish));
        ClusterAcmeView {
            status: match (failed, got) {
                (false, None) => AcmeStatus::Pending,
                (false, Some(_)) => AcmeStatus::Valid,
                (true, _) => AcmeStatus::Failing,
            },
            directory: directory(asked),
            email: asked.email.clone(),
            external_account: asked.external_account.as_ref().map(|a| a.key_id.clone()),
            ca_certificate: asked.ca_certificate.clone(),
            issuer: got.and_then(|g| g.issuer.clone()),
            not_after: got.map(|g| g.not_after),
            last_error: state.last_error.clone().filter(|_| failed),
            next_attempt: due,
        }
    }

    /// What is the matter with a cluster's certificate.
    pub(in crate::service::clusters) fn certificate_trouble(&self, row: &ClusterRow) -> Option<String> {
        let asked = row.stored.spec.tls.as_ref()?;
        let Some(acme) = &asked.acme else {
            let expires = row.expires.filter(|e| e.since(self.clock.now()) < RENEW_BEFORE_MS)?;
            return Some(format!("the certificate ends at {expires}: send a new one in `tls`"));
        };
        let view = self.acme_view(row, acme);
        let why = view.last_error.map(|why| format!(" {why}")).unwrap_or_default();
        match (view.status, view.not_after) {
            (AcmeStatus::Valid, _) => None,
            (_, None) => Some(format!(
                "there is no certificate of the ACME server yet, and the entry answers with one that is signed by itself.{why}"
            )),
            (_, Some(end)) => Some(format!("the certificate, which ends at {end}, could not be renewed.{why}")),
        }
    }
}

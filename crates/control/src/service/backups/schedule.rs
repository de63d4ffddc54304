//! Looks at what is due and begins it. Run twice, it begins nothing twice: a slot is claimed in the store.

use super::Backups;
use super::perform::Taken;
use super::rows::Config;
use super::slots::{self, Work};
use crate::api::error::ApiResult;
use nm_types::Timestamp;

/// How long after a start a node that has not come yet is taken for one on its way.
const GRACE_MS: i64 = 30_000;
/// Between two attempts at what can't be begun yet.
const AGAIN_MS: i64 = 5_000;

impl Backups {
    /// Begins what is due, and gives when to look again.
    pub async fn turn(&self) -> Option<Timestamp> {
        let now = self.clock.now();
        let mut next: Option<Timestamp> = None;
        for config in self.all() {
            for work in Work::ALL {
                let at = match self.look_at(&config, work, now).await {
                    Ok(at) => at,
                    Err(error) => {
                        tracing::warn!(backup.config = %config.id, ?work, error = %error.message, "what is due could not be begun; trying again");
                        Some(now.plus_millis(AGAIN_MS))
                    }
                };
                next = next.into_iter().chain(at).min();
            }
        }
        next.into_iter().chain(self.turn_logs(now)).min()
    }

    async fn look_at(&self, config: &Config, work: Work, now: Timestamp) -> ApiResult<Option<Timestamp>> {
        let due = slots::due(config, work, now)?;
        let later = due.next.map(|slot| slot.starts);
        let Some(slot) = due.due else { return Ok(later) };
        let node = self.node_of_server(config);
        let is_there = node.is_some_and(|node| self.fleet.is_connected(&node));
        if !is_there && now.since(self.started) < GRACE_MS {
            return Ok(Some(now.plus_millis(AGAIN_MS)));
        }
        match work {
            Work::Backup => {
                if self.perform_slot(config, slot).await? == Taken::Begun {
                    tracing::info!(backup.config = %config.id, slot = %slot.at, "a backup begins");
                }
            }
            // The change of the row that ends the other operation wakes us.
            Work::Check | Work::TestRestore => {
                if config.state.running.is_none() && self.upkeep_slot(config, work, slot).await? {
                    tracing::info!(backup.config = %config.id, slot = %slot.at, ?work, "a check begins");
                }
            }
        }
        self.refresh(&config.id).await?;
        Ok(later)
    }
}

//! An engine that answers at once: what is then measured is the gateway and nothing else.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use sluicegate::engine::{
    Engine, EngineError, EngineInfo, EngineStats, Finish, Finished, Generation, Instructions, Piece, Prepared, Prompt,
    PromptError, Sampling, Sink,
};
use sluicegate_compat::native::{EngineName, Modality, TokenKind, Workload};

pub struct InstantEngine {
    info: EngineInfo,
}

impl InstantEngine {
    pub fn new(slots: u32) -> Self {
        let info = EngineInfo {
            engine: EngineName::Scripted,
            engine_version: env!("CARGO_PKG_VERSION").to_owned(),
            sampler_profile_version: "instant".to_owned(),
            model_digest: "none".to_owned(),
            context_length: 8192,
            slots,
            cache: None,
            device: "none".to_owned(),
            quantization: None,
            vocab_size: u32::MAX,
            sampling: Sampling::default(),
            unsupported: &[],
            workloads: vec![Workload::Completion],
            modalities: vec![Modality::Text],
            dimensions: None,
            instructions: Instructions::default(),
        };
        Self { info }
    }

    /// As many tokens as are asked for; others get their turn after each.
    async fn run(&self, max_tokens: u32, sink: &mut dyn Sink) -> Finished {
        for _ in 0..max_tokens {
            let piece = Piece { text: "token ".into(), kind: TokenKind::Text, logprobs: None, tool: None };
            if sink.token(piece).is_break() {
                break;
            }
            tokio::task::yield_now().await;
        }
        let none = Duration::ZERO;
        Finished {
            finish: Finish::Length,
            matched_stop: None,
            tokens_out: max_tokens,
            cached_tokens: 0,
            prefill: none,
            decode: none,
        }
    }
}

impl Engine for InstantEngine {
    fn info(&self) -> &EngineInfo {
        &self.info
    }

    fn prepare(&self, _: &Arc<Prompt>) -> Result<Prepared, PromptError> {
        Ok(Prepared::Ids([1; 40].into()))
    }

    fn generate<'a>(
        &'a self,
        generation: Generation,
        sink: &'a mut dyn Sink,
    ) -> BoxFuture<'a, Result<Finished, EngineError>> {
        async move { Ok(self.run(generation.max_tokens, sink).await) }.boxed()
    }

    fn stats(&self) -> EngineStats {
        EngineStats { slots: self.info.slots, ..EngineStats::default() }
    }

    fn probe(&self, _: u32) -> BoxFuture<'_, Result<Finished, EngineError>> {
        let none = Duration::ZERO;
        let finished = Finished {
            finish: Finish::Length,
            matched_stop: None,
            tokens_out: 1,
            cached_tokens: 0,
            prefill: none,
            decode: none,
        };
        async move { Ok(finished) }.boxed()
    }

    fn unload(&self) -> BoxFuture<'_, ()> {
        async {}.boxed()
    }
}

"""Settings of NeMo that change nothing of what a network computes, each with the reason."""

from __future__ import annotations

_LAYOUT = "how the network was cut over processes"
_TRAINING = "how the network was trained, not what it computes"
_SPEED = "how a product is computed, not which"
_PRECISION = "every tensor says its own type"
_ORIGIN = "where the model came from"
_DATA = "data and settings of a run"

IDLE: dict[str, str] = {
    **dict.fromkeys(
        (
            *("tensor_model_parallel_size", "pipeline_model_parallel_size", "virtual_pipeline_model_parallel_size"),
            *(
                "context_parallel_size",
                "expert_model_parallel_size",
                "expert_tensor_parallel_size",
                "sequence_parallel",
            ),
            *(
                "pipeline_model_parallel_split_rank",
                "hierarchical_context_parallel_sizes",
                "moe_extended_tp",
                "defer_embedding_wgrad_compute",
            ),
            *("num_layers_in_first_pipeline_stage", "num_layers_in_last_pipeline_stage", "data_parallel_size"),
            *(
                "pipeline_model_parallel_comm_backend",
                "use_tp_pp_dp_mapping",
                "microbatch_group_size_per_vp_stage",
                "wgrad_deferral_limit",
                "pre_process",
                "post_process",
            ),
            *("make_vocab_size_divisible_by", "should_pad_vocab", "parallel_output", "variable_seq_lengths"),
        ),
        _LAYOUT,
    ),
    **dict.fromkeys(
        (
            *("micro_batch_size", "global_batch_size", "rampup_batch_size", "hidden_dropout", "attention_dropout"),
            *("ffn_dropout", "init_method_std", "use_scaled_init_method", "init_method", "output_layer_init_method"),
            *(
                "embedding_init_method",
                "embedding_init_method_std",
                "perform_initialization",
                "do_layer_norm_weight_decay",
            ),
            *("hysteresis", "seed", "optim", "data", "gc_interval", "gc_in_validation", "sync_batch_comm"),
            *("num_micro_batches_with_partial_activation_checkpoints", "loss_mask_val"),
            *("num_microbatches_with_partial_activation_checkpoints", "answer_only_loss", "gradient_as_bucket_view"),
            *("fp16_lm_cross_entropy", "calculate_per_token_loss", "moe_z_loss_coeff", "moe_per_layer_logging"),
            *("moe_input_jitter_eps", "distribute_saved_activations", "skip_train"),
            *("cross_entropy_loss_fusion", "cross_entropy_fusion_impl", "load_rm_head_weights"),
            *(
                "use_cpu_initialization",
                "use_te_rng_tracker",
                "restore_modelopt_state",
                "async_grad_allreduce",
                "inference_rng_tracker",
            ),
        ),
        _TRAINING,
    ),
    **dict.fromkeys(
        (
            *(
                "persist_layer_norm",
                "memory_efficient_layer_norm",
                "apply_query_key_layer_scaling",
                "masked_softmax_fusion",
            ),
            *("bias_dropout_add_fusion", "bias_dropout_fusion", "get_attention_mask_from_fusion", "apply_rope_fusion"),
            *("gradient_accumulation_fusion", "onnx_safe", "transformer_engine", "use_flash_attention", "use_emha"),
            *("overlap_p2p_comm", "batch_p2p_comm", "batch_p2p_sync", "deallocate_pipeline_outputs", "mcore_gpt"),
            *("moe_grouped_gemm", "moe_token_dispatcher_type", "moe_permute_fusion", "moe_router_fusion", "timers"),
            *("moe_enable_deepep", "moe_layer_recompute", "moe_shared_expert_overlap", "attention_backend"),
            *("deterministic_mode", "enable_cuda_graph", "external_cuda_graph", "cp_comm_type", "flash_decode"),
            *("transformer_layer_spec", "forward_step_fn", "data_step_fn", "transformer_impl", "config_logger_dir"),
            *(
                "async_tensor_model_parallel_allreduce",
                "use_transformer_engine_full_layer_spec",
                "sharp",
                "nsys_profile",
            ),
            *(
                "use_transformer_engine_op_fuser",
                "scatter_embedding_sequence_parallel",
                "use_sharp",
                "vp_stage",
                "generation_config",
                "barrier_with_L1_time",
            ),
        ),
        _SPEED,
    ),
    **dict.fromkeys(
        (
            *("megatron_amp_O2", "precision", "fp32_residual_connection", "attention_softmax_in_fp32", "fp16", "bf16"),
            *("params_dtype", "autocast_dtype", "enable_autocast", "pipeline_dtype", "reduce_amax", "force_head_dtype"),
            *("moe_router_dtype", "disable_bf16_reduced_precision_matmul", "disable_parameter_transpose_cache"),
            "first_last_layers_bf16",
        ),
        _PRECISION,
    ),
    **dict.fromkeys(
        (
            *(
                "nemo_version",
                "restore_from_path",
                "resume_from_checkpoint",
                "restore_from_ckpt",
                "pretrained_checkpoint",
            ),
            *("apex_transformer_log_level", "tokenizer", "generation_config"),
        ),
        _ORIGIN,
    ),
    **dict.fromkeys(
        (
            *(
                "ppo",
                "dpo",
                "kto",
                "spin",
                "steerlm2",
                "reinforce",
                "rs",
                "grpo",
                "knowledge_distillation",
                "inference",
            ),
            *(
                "overwrite_base_config",
                "peft",
                "trainer",
                "exp_manager",
                "save_nemo_on_validation_end",
                "offload_modules",
            ),
            *("forward_micro_batch_size", "offload_adam_states", "log_prob_forward_micro_batch_size", "trt_llm", "rpo"),
            *("combine_rm_and_critic_server", "inference_micro_batch_size", "preference_average_log_probs"),
            *("preference_loss", "sft_loss_weight", "dataset", "batch_size", "report_validation_metrics"),
            "reward_model_type",
        ),
        _DATA,
    ),
}
"""Keys without effect on what the network computes, and why."""

IDLE_PARTS: dict[str, str] = {
    "activations_checkpoint_": _TRAINING,
    "recompute_": _TRAINING,
    "native_amp_": _TRAINING,
    "grad_": _TRAINING,
    "no_sync_": _TRAINING,
    "param_sync_": _TRAINING,
    "finalize_model_": _TRAINING,
    "fp8": _PRECISION,
    "fp4": _PRECISION,
    "ub_tp_comm_": _SPEED,
    "tp_comm_": _SPEED,
    "tp_only_": _SPEED,
    "cpu_offloading": _SPEED,
    "_cpu_offloading": _SPEED,
    "cuda_graph_": _SPEED,
    "use_kitchen": _SPEED,
    "fsdp": _LAYOUT,
    "dist_ckpt_": _ORIGIN,
    "async_save": _ORIGIN,
}
"""Beginnings of such keys, of which there are many."""

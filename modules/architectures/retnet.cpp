// RetNet (Sun et al., arXiv 2307.08621): multi-scale retention, a matrix state with one fixed decay
// per head.
//   S_t = gamma_h S_{t-1} + k_t^T v_t,  o_t = q_t S_t,  gamma_h = 1 - 2^(-5-h)
//   x <- x + O (head_norm(o) * swish(W_g h)),  h = norm(x),  q and k rotated as by RoPE
//   x <- x + W_down (act(W_gate h) * W_up h)
//
// Two dialects, which are different models:
//   fla         flash-linear-attention's: half-split rotation, head norm with a shared weight,
//               SwiGLU, no score normalisers, N(0, 0.02). Exports to fla.
//   torchscale  the authors' library since October 2023: interleaved rotation with frequencies
//               10000^-linspace(0, 1), score normalisers, head norm without weight, GeGLU,
//               Xavier init.
//
// Parameters per layer: 2 D^2 + 3 D V' + 3 D F (V' = expand_v D).  Decode state: H K V numbers in
// fp32.
#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>

#include <cmath>

#include "base/error.h"
#include "modules/layers/hf_config.h"
#include "modules/layers/residual_block.h"
#include "modules/lm.h"
#include "modules/ops/head_norm_gate/head_norm_gate.h"
#include "modules/ops/linear/linear.h"
#include "modules/ops/retention/normalized.h"
#include "modules/ops/retention/retention.h"
#include "modules/ops/rotary/rotary.h"
#include "modules/registry.h"

namespace ceiling {
namespace {

struct RetNetConfig final : ModelConfig {
  std::string dialect = "fla", form = "chunk";
  int64_t d_model = 512, n_layers = 8, n_heads = 2;
  std::optional<int64_t> chunk, v_width, d_ff;
  double norm_eps = 1e-6, init_std = 0.02;
  bool tie_embeddings = false;
  int64_t vocab_multiple = 1;

  void fields(Fields& f) override {
    f("dialect", dialect, OneOf{"fla", "torchscale"},
      "fla: as flash-linear-attention, exportable; torchscale: as the authors' library");
    f("form", form, OneOf{"chunk", "parallel", "recurrent"},
      "how retention is computed in training; equal results");
    f("chunk", chunk, "auto", AtLeast{1},
      "chunk length of the chunk form; auto: 32 on a CPU, 64 on a GPU");
    f("d_model", d_model, AtLeast{1}, "residual width D");
    f("n_layers", n_layers, AtLeast{1}, "number of blocks L");
    f("n_heads", n_heads, AtLeast{1}, "retention heads H, each with its own decay");
    f("v_width", v_width, "auto", AtLeast{1}, "width of all value heads together; auto: 2 d_model");
    f("d_ff", d_ff, "auto", AtLeast{1},
      "width F of the feed-forward; auto: 4/3 d_model rounded up to a multiple of 256 (fla), "
      "v_width (torchscale)");
    f("norm_eps", norm_eps, MoreThan{0}, "epsilon of RMSNorm; larger values make the forms differ");
    f("tie_embeddings", tie_embeddings, "use the embedding matrix as output head");
    f("init_std", init_std, MoreThan{0}, "fla: standard deviation of all matrices at the start");
    f("vocab_multiple", vocab_multiple, AtLeast{1},
      "round the rows of embedding and head up to a multiple; padding rows take no probability");
  }

  bool fla() const { return dialect == "fla"; }
  int64_t value_width() const { return v_width.value_or(2 * d_model); }
  int64_t ff() const {
    return d_ff.value_or(fla() ? (4 * d_model / 3 + 255) / 256 * 256 : value_width());
  }

  void check() const override {
    if (d_model % n_heads != 0)
      throw Error("model.n_heads: {} does not divide model.d_model {}", n_heads, d_model);
    if (value_width() % n_heads != 0)
      throw Error("model.n_heads: {} does not divide model.v_width {}", n_heads, value_width());
    if (d_model / n_heads % 2 != 0)
      throw Error("model.n_heads: d_model / n_heads is {}, odd; the rotation needs pairs",
                  d_model / n_heads);
  }

  std::unique_ptr<LanguageModel> build() const override;
  HfLayout hf_layout() const override;
  HfLayout torchscale_layout() const;
  bool from_hf(const nlohmann::json& config) override;
};

class Retention final : public Mixer {
 public:
  explicit Retention(const RetNetConfig& c)
      : fla_(c.fla()),
        form_(c.form == "chunk"      ? RetentionForm::kChunk
              : c.form == "parallel" ? RetentionForm::kParallel
                                     : RetentionForm::kRecurrent),
        chunk_(c.chunk),
        n_heads_(c.n_heads),
        k_dim_(c.d_model / c.n_heads),
        v_dim_(c.value_width() / c.n_heads),
        eps_(c.norm_eps),
        rotary_(c.fla() ? rope_frequencies(k_dim_, 10000) : retnet_torchscale_frequencies(k_dim_)),
        log_decay_(at::empty({c.n_heads}, at::kDouble)),
        qkvg_(parameter("qkvg.weight", {2 * c.d_model + 2 * c.value_width(), c.d_model},
                        {.init = c.fla() ? init::normal(c.init_std) : torchscale_init(c)})),
        norm_(c.fla() ? &parameter("norm.weight", {v_dim_}, {.init = init::ones(), .decay = false})
                      : nullptr),
        out_(parameter("out.weight", {c.d_model, c.value_width()},
                       {.init = c.fla() ? init::normal(c.init_std) : init::xavier_uniform(0.5)})) {
    // log1p keeps the slow heads: 1 - 2^-9 and beyond would round away.
    for (int64_t h = 0; h < n_heads_; ++h)
      log_decay_[h] = std::log1p(-std::exp2(-5.0 - static_cast<double>(h)));
  }

  at::Tensor forward(const at::Tensor& x, const MixContext& context, State* state) override {
    const int64_t value_width = n_heads_ * v_dim_;
    const RotaryOutput heads = split_rotary(linear(x, qkvg_), context.position, rotary_,
                                            {.n_q_heads = n_heads_,
                                             .n_k_heads = n_heads_,
                                             .head_dim = k_dim_,
                                             .rest = {value_width, value_width},
                                             .interleaved = !fla_,
                                             .k_scale = 1 / std::sqrt(static_cast<double>(k_dim_))},
                                            context.position_bound);
    const at::Tensor v = heads.rest[0].unflatten(-1, {n_heads_, v_dim_});
    const RetentionForm form = x.size(1) == 1 ? RetentionForm::kRecurrent : form_;
    const int64_t chunk = chunk_.value_or(x.is_cuda() ? 64 : 32);
    at::Tensor o;
    if (fla_) {
      const at::Tensor before = state && !state->empty() ? state->tensors[0] : at::Tensor();
      const auto out = retention(heads.q, heads.k, v, log_decay_, before, context.segments, form,
                                 chunk, heads.places[0]);
      if (state) state->tensors = {out.state};
      o = out.o;
    } else if (state || form == RetentionForm::kRecurrent) {
      // The authors carry a state in the recurrent form alone.
      NormalizedRetentionState before;
      if (state && !state->empty()) before = {state->tensors[0], state->tensors[1]};
      const auto out = normalized_retention_recurrent(heads.q, heads.k, v, log_decay_, before,
                                                      context.segments, chunk);
      if (state) state->tensors = {out.state.kv, out.state.scale};
      o = out.o;
    } else if (form == RetentionForm::kParallel) {
      o = normalized_retention_parallel(heads.q, heads.k, v, log_decay_, context.segments);
    } else {
      o = normalized_retention_chunk(heads.q, heads.k, v, log_decay_, context.segments, chunk);
    }
    return linear(head_norm_gate(o, heads.rest[1], norm_, eps_, Activation::kSilu, heads.places[1]),
                  out_);
  }

  double mixing_flops_per_token(int64_t seq_len) const override {
    const auto h = static_cast<double>(n_heads_), k = static_cast<double>(k_dim_),
               v = static_cast<double>(v_dim_);
    if (form_ == RetentionForm::kRecurrent) return 5 * h * k * v;
    const double span = form_ == RetentionForm::kChunk
                            ? static_cast<double>(std::min(chunk_.value_or(64), seq_len))
                            : static_cast<double>(seq_len);
    const double within = 2 * h * span * (k + v);
    return form_ == RetentionForm::kParallel ? within : within + 4 * h * k * v;
  }
  double state_bytes(int64_t /*n_tokens*/, int64_t /*element_bytes*/) const override {
    return 4.0 * static_cast<double>(n_heads_ * (k_dim_ * v_dim_ + (fla_ ? 0 : 1)));
  }
  // [B, H, K, V] fp32; torchscale also [B, H], the sum of decays that its normaliser carries.
  std::vector<std::string> state_names() const override {
    return fla_ ? std::vector<std::string>{"recurrent"}
                : std::vector<std::string>{"prev_key_value", "scale"};
  }

 private:
  static Init torchscale_init(const RetNetConfig& c) {
    const double gain = std::exp2(-2.5);
    const Init part = init::xavier_uniform(gain);
    return init::by_rows(
        {{c.d_model, part}, {c.d_model, part}, {c.value_width(), part}, {c.value_width(), part}});
  }

  bool fla_;
  RetentionForm form_;
  std::optional<int64_t> chunk_;
  int64_t n_heads_, k_dim_, v_dim_;
  double eps_;
  RotaryTable rotary_;
  at::Tensor log_decay_;  // [H] fp64
  Parameter& qkvg_;       // [q: D | k: D | v: V' | gate: V', D]
  Parameter* norm_;       // [V], shared by the heads; none in torchscale
  Parameter& out_;        // [D, V']
};

std::unique_ptr<LanguageModel> RetNetConfig::build() const {
  // torchscale leaves the GLU's linears at PyTorch's default, U(+-1/sqrt(fan_in)).
  const auto glu = [&](int64_t fan_in) {
    const double bound = 1 / std::sqrt(static_cast<double>(fan_in));
    return fla() ? init::normal(init_std) : init::uniform(-bound, bound);
  };
  std::vector<std::unique_ptr<Block>> blocks;
  for (int64_t i = 0; i < n_layers; ++i) {
    auto ffn = std::make_unique<GatedFfn>(
        d_model, ff(), fla() ? Activation::kSilu : Activation::kGelu, glu(d_model), glu(ff()));
    blocks.push_back(std::make_unique<ResidualBlock>(
        "retention", std::make_unique<Retention>(*this), std::move(ffn), d_model, norm_eps));
  }
  const Init ends = init::normal(fla() ? init_std : 1 / std::sqrt(static_cast<double>(d_model)));
  return std::make_unique<LanguageModel>(
      LanguageModel::Options{
          .vocab_size = vocab_size,
          .vocab_rows = (vocab_size + vocab_multiple - 1) / vocab_multiple * vocab_multiple,
          .d_model = d_model,
          .tie_embeddings = tie_embeddings,
          .norm_eps = norm_eps,
          .embedding_init = ends,
          .head_init = ends},
      std::move(blocks));
}

HfLayout RetNetConfig::hf_layout() const {
  if (!fla()) return torchscale_layout();
  HfLayout layout;
  layout.config = {{"architectures", {"RetNetForCausalLM"}},
                   {"model_type", "retnet"},
                   {"attn_mode", "chunk"},
                   {"hidden_size", d_model},
                   {"expand_k", 1.0},
                   {"expand_v", static_cast<double>(value_width()) / static_cast<double>(d_model)},
                   {"hidden_ratio", 2},
                   {"intermediate_size", ff()},
                   {"num_hidden_layers", n_layers},
                   {"num_heads", n_heads},
                   {"hidden_act", "swish"},
                   {"norm_eps", norm_eps},
                   {"fuse_norm", true},
                   {"use_short_conv", false},
                   {"use_output_gate", true},
                   {"elementwise_affine", true},
                   {"initializer_range", init_std},
                   {"max_position_embeddings", context},
                   {"tie_word_embeddings", tie_embeddings},
                   {"use_cache", true}};
  const int64_t d = d_model, v = value_width();
  layout.tensors.push_back({"model.embeddings.weight", "embedding.weight"});
  for (int64_t i = 0; i < n_layers; ++i) {
    const std::string theirs = fmt::format("model.layers.{}.", i),
                      ours = fmt::format("layers.{}.", i);
    layout.tensors.push_back({theirs + "attn_norm.weight", ours + "retention_norm.weight"});
    layout.tensors.push_back({theirs + "attn.q_proj.weight", ours + "retention.qkvg.weight", 0, d});
    layout.tensors.push_back(
        {theirs + "attn.k_proj.weight", ours + "retention.qkvg.weight", d, 2 * d});
    layout.tensors.push_back(
        {theirs + "attn.v_proj.weight", ours + "retention.qkvg.weight", 2 * d, 2 * d + v});
    layout.tensors.push_back(
        {theirs + "attn.g_proj.weight", ours + "retention.qkvg.weight", 2 * d + v, 2 * d + 2 * v});
    layout.tensors.push_back(
        {theirs + "attn.g_norm_swish_gate.weight", ours + "retention.norm.weight"});
    layout.tensors.push_back({theirs + "attn.o_proj.weight", ours + "retention.out.weight"});
    layout.tensors.push_back({theirs + "mlp_norm.weight", ours + "ffn_norm.weight"});
    layout.tensors.push_back(
        {theirs + "mlp.gate_proj.weight", ours + "ffn.gate_up.weight", 0, ff()});
    layout.tensors.push_back(
        {theirs + "mlp.up_proj.weight", ours + "ffn.gate_up.weight", ff(), 2 * ff()});
    layout.tensors.push_back({theirs + "mlp.down_proj.weight", ours + "ffn.down.weight"});
  }
  layout.tensors.push_back({"model.norm.weight", "norm.weight"});
  if (!tie_embeddings) layout.tensors.push_back({"lm_head.weight", "head.weight"});
  return layout;
}

// The authors' own names (torchscale's state dict); its GLU calls the activated matrix fc1 and the
// other one gate.
HfLayout RetNetConfig::torchscale_layout() const {
  HfLayout layout;
  layout.config = {{"model_type", "retnet_torchscale"},
                   {"decoder_embed_dim", d_model},
                   {"decoder_value_embed_dim", value_width()},
                   {"decoder_ffn_embed_dim", ff()},
                   {"decoder_layers", n_layers},
                   {"decoder_retention_heads", n_heads},
                   {"activation_fn", "gelu"},
                   {"layernorm_eps", norm_eps},
                   {"deepnorm", false},
                   {"no_scale_embedding", true},
                   {"max_target_positions", context},
                   {"share_decoder_input_output_embed", tie_embeddings}};
  const int64_t d = d_model, v = value_width();
  layout.tensors.push_back({"embed_tokens.weight", "embedding.weight"});
  for (int64_t i = 0; i < n_layers; ++i) {
    const std::string prefix = fmt::format("layers.{}.", i);
    const auto add = [&](const char* theirs, const char* ours, int64_t begin = 0,
                         int64_t end = -1) {
      layout.tensors.push_back({prefix + theirs, prefix + ours, begin, end});
    };
    add("retention_layer_norm.weight", "retention_norm.weight");
    add("retention.q_proj.weight", "retention.qkvg.weight", 0, d);
    add("retention.k_proj.weight", "retention.qkvg.weight", d, 2 * d);
    add("retention.v_proj.weight", "retention.qkvg.weight", 2 * d, 2 * d + v);
    add("retention.g_proj.weight", "retention.qkvg.weight", 2 * d + v, 2 * d + 2 * v);
    add("retention.out_proj.weight", "retention.out.weight");
    add("final_layer_norm.weight", "ffn_norm.weight");
    add("ffn.fc1.weight", "ffn.gate_up.weight", 0, ff());
    add("ffn.gate.weight", "ffn.gate_up.weight", ff(), 2 * ff());
    add("ffn.fc2.weight", "ffn.down.weight");
  }
  layout.tensors.push_back({"layer_norm.weight", "norm.weight"});
  if (!tie_embeddings) layout.tensors.push_back({"output_projection.weight", "head.weight"});
  return layout;
}

bool RetNetConfig::from_hf(const nlohmann::json& config) {
  const HfConfigReader hf(config);
  if (hf.is("model_type", "retnet_torchscale")) {
    hf.require("activation_fn", "gelu");
    hf.require("deepnorm", false);
    hf.require("no_scale_embedding", true);
    dialect = "torchscale";
    form = "parallel";  // what the authors train with; the dialect's forms differ slightly
    d_model = hf.get<int64_t>("decoder_embed_dim");
    v_width = hf.get<int64_t>("decoder_value_embed_dim");
    d_ff = hf.get<int64_t>("decoder_ffn_embed_dim");
    n_layers = hf.get<int64_t>("decoder_layers");
    n_heads = hf.get<int64_t>("decoder_retention_heads");
    norm_eps = hf.get<double>("layernorm_eps", 1e-6);
    tie_embeddings = hf.get<bool>("share_decoder_input_output_embed", false);
    vocab_size = hf.get<int64_t>("vocab_size");
    context = hf.get<int64_t>("max_target_positions", 1024);
    return true;
  }
  if (!hf.is("model_type", "retnet")) return false;
  hf.require("hidden_act", "swish");
  hf.require("expand_k", 1.0);
  hf.require("use_short_conv", false);
  hf.require("use_output_gate", true);
  hf.require("fuse_norm", true);
  dialect = "fla";
  d_model = hf.get<int64_t>("hidden_size");
  n_layers = hf.get<int64_t>("num_hidden_layers");
  n_heads = hf.get<int64_t>("num_heads");
  v_width = std::llround(static_cast<double>(d_model) * hf.get<double>("expand_v", 2.0));
  d_ff = hf.get<int64_t>("intermediate_size");
  norm_eps = hf.get<double>("norm_eps", 1e-6);
  init_std = hf.get<double>("initializer_range", 0.02);
  tie_embeddings = hf.get<bool>("tie_word_embeddings", false);
  vocab_size = hf.get<int64_t>("vocab_size");
  context = hf.get<int64_t>("max_position_embeddings", 2048);
  return true;
}

const RegisterArchitecture<RetNetConfig> kRetNet(
    "retnet", "multi-scale retention, fixed decay per head (arXiv 2307.08621)",
    {"{d_model: 32, n_layers: 2, n_heads: 2, d_ff: 48, form: chunk, chunk: 16}",
     "{d_model: 32, n_layers: 2, n_heads: 2, d_ff: 48, form: parallel}",
     "{d_model: 32, n_layers: 2, n_heads: 2, d_ff: 48, form: recurrent, tie_embeddings: true}",
     "{d_model: 32, n_layers: 2, n_heads: 2, dialect: torchscale, form: recurrent}"});

}  // namespace
}  // namespace ceiling

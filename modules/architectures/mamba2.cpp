// Mamba-2 (Dao and Gu, arXiv 2405.21060): a matrix state per head with a data-dependent decay, and
// no feed-forward.
//   z | x | B | C | dt = W_in h,  h = norm(x_in)
//   x | B | C <- silu(causal conv of width 4),  y = ssd(x, dt, B, C)
//   x_in <- x_in + W_out (norm(y silu(z)) w)
// `pattern` puts causal attention in the place of some layers, as the paper's hybrids do (section
// 9.2.3). Initialisation is that of the authors' code, state-spaces/mamba.
// With E = expand D, H = E / P heads, state width N and G groups: parameters per layer
//   D (2 E + 2 G N + H) + 5 (E + 2 G N) + 3 H + E + E D + D
// Decode state: E N numbers in fp32, and 3 (E + 2 G N) of the convolution.
// Layouts: transformers' Mamba2ForCausalLM where it can hold the model (one group, no attention);
// else the authors' own.
#include <ATen/TensorOperators.h>

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/random.h"
#include "modules/layers/attention.h"
#include "modules/layers/hf_config.h"
#include "modules/lm.h"
#include "modules/ops/causal_conv1d/causal_conv1d.h"
#include "modules/ops/gated_rms_norm/gated_rms_norm.h"
#include "modules/ops/linear/linear.h"
#include "modules/ops/rms_norm/rms_norm.h"
#include "modules/ops/ssd/ssd.h"
#include "modules/registry.h"

namespace ceiling {
namespace {

struct Mamba2Config final : ModelConfig {
  std::vector<std::string> pattern = {"mamba2"};
  std::string form = "chunk";
  int64_t d_model = 512, n_layers = 16, expand = 2, d_state = 128, head_dim = 64, n_groups = 1,
          d_conv = 4;
  std::optional<int64_t> chunk, n_heads, n_kv_heads;
  double dt_init_min = 0.001, dt_init_max = 0.1, dt_init_floor = 1e-4, a_init_min = 1,
         a_init_max = 16, dt_limit_min = 0;
  std::optional<double> dt_limit_max;
  double rope_base = 10000, norm_eps = 1e-5, init_std = 0.02;
  bool tie_embeddings = false;
  int64_t vocab_multiple = 1;

  void fields(Fields& f) override {
    f("pattern", pattern, "mixers of the layers, mamba2 or attention, repeated from the first on");
    f("form", form, OneOf{"chunk", "parallel", "recurrent"},
      "how the recurrence is computed in training; equal results");
    f("chunk", chunk, "auto", AtLeast{1},
      "chunk length of the chunk form; auto: 32 on a CPU, 64 on a GPU");
    f("d_model", d_model, AtLeast{1}, "residual width D");
    f("n_layers", n_layers, AtLeast{1}, "number of layers L; two stand for one of a Transformer");
    f("expand", expand, AtLeast{1}, "inner width E in units of d_model");
    f("d_state", d_state, AtLeast{1}, "width N of B and C: rows of the state of a head");
    f("head_dim", head_dim, AtLeast{1}, "width P of a head of x: columns of its state");
    f("n_groups", n_groups, AtLeast{1}, "groups G of heads with B and C of their own");
    f("d_conv", d_conv, Between{2, 4}, "taps of the convolution");
    f("dt_init_min", dt_init_min, MoreThan{0}, "time steps at the start: log-uniform from here");
    f("dt_init_max", dt_init_max, MoreThan{0}, "to here");
    f("dt_init_floor", dt_init_floor, MoreThan{0}, "and at least this");
    f("dt_limit_min", dt_limit_min, AtLeast{0}, "time steps are clamped from below");
    f("dt_limit_max", dt_limit_max, "none", AtLeast{0}, "and from above");
    f("a_init_min", a_init_min, MoreThan{0}, "decay rates -A at the start: uniform from here");
    f("a_init_max", a_init_max, MoreThan{0}, "to here");
    f("n_heads", n_heads, "auto", AtLeast{1}, "attention: query heads; auto: d_model / 64");
    f("n_kv_heads", n_kv_heads, "auto", AtLeast{1}, "attention: key/value heads; auto: n_heads");
    f("rope_base", rope_base, MoreThan{1}, "attention: base of the rotary frequencies");
    f("norm_eps", norm_eps, MoreThan{0}, "epsilon of RMSNorm");
    f("tie_embeddings", tie_embeddings, "use the embedding matrix as output head; the authors do");
    f("init_std", init_std, MoreThan{0},
      "standard deviation of embedding and head at the start; the rest is U(+-1/sqrt(fan in))");
    f("vocab_multiple", vocab_multiple, AtLeast{1},
      "round the rows of embedding and head up to a multiple; padding rows take no probability");
  }

  int64_t inner() const { return expand * d_model; }
  int64_t ssd_heads() const { return inner() / head_dim; }
  int64_t conv_channels() const { return inner() + 2 * n_groups * d_state; }
  int64_t query_heads() const { return n_heads.value_or(std::max<int64_t>(1, d_model / 64)); }
  int64_t kv_heads() const { return n_kv_heads.value_or(query_heads()); }
  int64_t attention_width() const { return d_model / query_heads(); }
  bool is_attention(int64_t layer) const {
    return pattern[static_cast<size_t>(layer) % pattern.size()] == "attention";
  }
  bool any_attention() const {
    for (int64_t i = 0; i < n_layers; ++i)
      if (is_attention(i)) return true;
    return false;
  }
  // transformers norms all channels together, whatever n_groups says.
  bool fits_transformers() const { return n_groups == 1 && !any_attention(); }

  void check() const override {
    if (pattern.empty()) throw Error("model.pattern: is empty; name mamba2 or attention");
    for (const std::string& mixer : pattern)
      if (mixer != "mamba2" && mixer != "attention")
        throw Error("model.pattern: '{}' is not a mixer, must be mamba2 or attention", mixer);
    if (inner() % head_dim != 0)
      throw Error("model.head_dim: {} does not divide expand * d_model {}", head_dim, inner());
    if (ssd_heads() % n_groups != 0)
      throw Error("model.n_groups: {} does not divide the {} heads", n_groups, ssd_heads());
    if (dt_init_min > dt_init_max)
      throw Error("model.dt_init_min: {} is above model.dt_init_max {}", dt_init_min, dt_init_max);
    if (a_init_min > a_init_max)
      throw Error("model.a_init_min: {} is above model.a_init_max {}", a_init_min, a_init_max);
    if (dt_limit_max && *dt_limit_max < dt_limit_min)
      throw Error("model.dt_limit_max: {} is below model.dt_limit_min {}", *dt_limit_max,
                  dt_limit_min);
    if (!any_attention()) return;
    if (d_model % query_heads() != 0)
      throw Error("model.n_heads: {} does not divide model.d_model {}", query_heads(), d_model);
    if (query_heads() % kv_heads() != 0)
      throw Error("model.n_kv_heads: {} does not divide model.n_heads {}", kv_heads(),
                  query_heads());
    if (attention_width() % 2 != 0)
      throw Error("model.n_heads: d_model / n_heads is {}, odd; rotary positions need pairs",
                  attention_width());
  }

  std::unique_ptr<LanguageModel> build() const override;
  HfLayout hf_layout() const override;
  void add_authors_config(nlohmann::json& out) const;
  bool from_hf(const nlohmann::json& config) override;
  void from_authors(const nlohmann::json& config);
};

// PyTorch's default for linear and convolution: kaiming_uniform(a = sqrt 5).
Init uniform_fan_in(int64_t fan_in, double gain = 1) {
  const double bound = gain / std::sqrt(static_cast<double>(fan_in));
  return init::uniform(-bound, bound);
}

// softplus^-1 of time steps that are uniform in their logarithm.
Init time_step_init(double low, double high, double floor) {
  return [=](at::Tensor& value, const RandomStream& stream) {
    init::uniform(std::log(low), std::log(high))(value, stream);
    const at::Tensor dt = value.exp().clamp_min(floor);
    value.copy_(dt + (-(-dt).expm1()).log());
  };
}

// ln of -A, uniform.
Init decay_init(double low, double high) {
  return [=](at::Tensor& value, const RandomStream& stream) {
    init::uniform(low, high)(value, stream);
    value.log_();
  };
}

class Mamba2 final : public Mixer {
 public:
  explicit Mamba2(const Mamba2Config& c)
      : inner_(c.inner()),
        n_heads_(c.ssd_heads()),
        head_dim_(c.head_dim),
        n_groups_(c.n_groups),
        d_state_(c.d_state),
        d_conv_(c.d_conv),
        chunk_(c.chunk),
        options_{.dt_min = c.dt_limit_min,
                 .dt_max = c.dt_limit_max.value_or(std::numeric_limits<double>::infinity()),
                 .form = c.form == "chunk"      ? RetentionForm::kChunk
                         : c.form == "parallel" ? RetentionForm::kParallel
                                                : RetentionForm::kRecurrent},
        eps_(c.norm_eps),
        in_(parameter("in.weight", {inner_ + c.conv_channels() + n_heads_, c.d_model},
                      {.init = uniform_fan_in(c.d_model)})),
        conv_(parameter("conv.weight", {c.conv_channels(), 1, d_conv_},
                        {.init = uniform_fan_in(d_conv_)})),
        conv_bias_(parameter("conv.bias", {c.conv_channels()},
                             {.init = uniform_fan_in(d_conv_), .decay = false})),
        dt_bias_(parameter("dt_bias", {n_heads_},
                           {.init = time_step_init(c.dt_init_min, c.dt_init_max, c.dt_init_floor),
                            .decay = false,
                            .keep_fp32 = true})),
        a_log_(parameter(
            "A_log", {n_heads_},
            {.init = decay_init(c.a_init_min, c.a_init_max), .decay = false, .keep_fp32 = true})),
        d_(parameter("D", {n_heads_}, {.init = init::ones(), .decay = false, .keep_fp32 = true})),
        norm_(parameter("norm.weight", {inner_}, {.init = init::ones(), .decay = false})),
        out_(parameter(
            "out.weight", {c.d_model, inner_},
            {.init = uniform_fan_in(inner_, 1 / std::sqrt(static_cast<double>(c.n_layers)))})) {}

  at::Tensor forward(const at::Tensor& x, const MixContext& context, State* state) override {
    const bool carried = state && !state->empty();
    const int64_t group_width = n_groups_ * d_state_;
    const auto projected =
        linear(x, in_).split_with_sizes({inner_, inner_ + 2 * group_width, n_heads_}, 2);
    const CausalConv1dOutput conv =
        causal_conv1d(projected[1], conv_, &conv_bias_, carried ? state->tensors[0] : at::Tensor(),
                      context.segments, /*silu=*/true);
    const auto parts = conv.y.split_with_sizes({inner_, group_width, group_width}, 2);
    SsdOptions options = options_;
    if (x.size(1) == 1) options.form = RetentionForm::kRecurrent;
    options.chunk = chunk_.value_or(x.is_cuda() ? 64 : 32);
    const SsdOutput out =
        ssd(parts[0].unflatten(2, {n_heads_, head_dim_}), projected[2],
            parts[1].unflatten(2, {n_groups_, d_state_}),
            parts[2].unflatten(2, {n_groups_, d_state_}), {a_log_, d_, dt_bias_},
            carried ? state->tensors[1] : at::Tensor(), context.segments, options);
    if (state) state->tensors = {conv.state, out.state};
    return linear(gated_rms_norm(out.y.flatten(2), projected[0], norm_, n_groups_, eps_), out_);
  }

  double mixing_flops_per_token(int64_t seq_len) const override {
    const auto e = static_cast<double>(inner_), n = static_cast<double>(d_state_),
               gn = static_cast<double>(n_groups_) * n;
    const double conv = 2.0 * static_cast<double>(d_conv_) * (e + 2 * gn);
    if (options_.form == RetentionForm::kRecurrent) return conv + 5 * e * n;
    const double span = options_.form == RetentionForm::kChunk
                            ? static_cast<double>(std::min(chunk_.value_or(64), seq_len))
                            : static_cast<double>(seq_len);
    const double within = 2 * span * (gn + e);  // scores once for a group
    return conv + (options_.form == RetentionForm::kParallel ? within : within + 4 * e * n);
  }
  double state_bytes(int64_t /*n_tokens*/, int64_t element_bytes) const override {
    return static_cast<double>(element_bytes * (d_conv_ - 1) *
                               (inner_ + 2 * n_groups_ * d_state_)) +
           4.0 * static_cast<double>(inner_ * d_state_);
  }
  // [B, d_conv - 1, E + 2 G N] inputs of the convolution; [B, H, N, P] fp32.
  std::vector<std::string> state_names() const override { return {"conv_state", "ssm_state"}; }

 private:
  int64_t inner_, n_heads_, head_dim_, n_groups_, d_state_, d_conv_;
  std::optional<int64_t> chunk_;
  SsdOptions options_;
  double eps_;
  Parameter& in_;    // [z: E | x: E | B: G N | C: G N | dt: H, D]
  Parameter& conv_;  // [E + 2 G N, 1, d_conv], over x | B | C
  Parameter& conv_bias_;
  Parameter &dt_bias_, &a_log_, &d_;  // [H]
  Parameter& norm_;                   // [E]
  Parameter& out_;                    // [D, E]
};

// x <- x + mixer(norm(x)).
class MixerBlock final : public Block {
 public:
  MixerBlock(const std::string& mixer_name, std::unique_ptr<Mixer> mixer, int64_t d_model,
             double norm_eps)
      : eps_(norm_eps),
        norm_(parameter("norm.weight", {d_model}, {.init = init::ones(), .decay = false})),
        mixer_(static_cast<Mixer&>(adopt(mixer_name, std::move(mixer)))) {}
  at::Tensor forward(const at::Tensor& x, const MixContext& context, State* state) override {
    const AddRmsNormOutput in = rms_norm_beside(x, norm_, eps_);
    return in.residual + mixer_.forward(in.y, context, state);
  }
  const Mixer& mixer() const override { return mixer_; }

 private:
  double eps_;
  Parameter& norm_;
  Mixer& mixer_;
};

std::unique_ptr<LanguageModel> Mamba2Config::build() const {
  std::vector<std::unique_ptr<Block>> blocks;
  for (int64_t i = 0; i < n_layers; ++i) {
    std::unique_ptr<Mixer> mixer;
    if (is_attention(i))
      mixer = std::make_unique<Attention>(AttentionOptions{
          .d_model = d_model,
          .n_heads = query_heads(),
          .n_kv_heads = kv_heads(),
          .head_dim = attention_width(),
          .rope_base = rope_base,
          .qkv_init = uniform_fan_in(d_model),
          .out_init = uniform_fan_in(d_model, 1 / std::sqrt(static_cast<double>(n_layers)))});
    else
      mixer = std::make_unique<Mamba2>(*this);
    blocks.push_back(std::make_unique<MixerBlock>(is_attention(i) ? "attention" : "mamba2",
                                                  std::move(mixer), d_model, norm_eps));
  }
  return std::make_unique<LanguageModel>(
      LanguageModel::Options{
          .vocab_size = vocab_size,
          .vocab_rows = (vocab_size + vocab_multiple - 1) / vocab_multiple * vocab_multiple,
          .d_model = d_model,
          .tie_embeddings = tie_embeddings,
          .norm_eps = norm_eps,
          .embedding_init = init::normal(init_std),
          .head_init = init::normal(init_std)},
      std::move(blocks));
}

HfLayout Mamba2Config::hf_layout() const {
  HfLayout layout;
  if (fits_transformers()) {
    layout.config = {{"architectures", {"Mamba2ForCausalLM"}},
                     {"model_type", "mamba2"},
                     {"hidden_size", d_model},
                     {"num_hidden_layers", n_layers},
                     {"expand", expand},
                     {"num_heads", ssd_heads()},
                     {"head_dim", head_dim},
                     {"state_size", d_state},
                     {"n_groups", n_groups},
                     {"conv_kernel", d_conv},
                     {"chunk_size", 256},  // of transformers' algorithm: no part of the model
                     {"hidden_act", "silu"},
                     {"use_bias", false},
                     {"use_conv_bias", true},
                     {"layer_norm_epsilon", norm_eps},
                     {"rms_norm", true},
                     {"norm_before_gate", false},
                     {"time_step_min", dt_init_min},
                     {"time_step_max", dt_init_max},
                     {"time_step_floor", dt_init_floor},
                     {"time_step_rank", (d_model + 15) / 16},
                     {"residual_in_fp32", true},
                     // true divides loaded weights by sqrt(num_hidden_layers).
                     {"rescale_prenorm_residual", false},
                     {"initializer_range", init_std},
                     {"tie_word_embeddings", tie_embeddings},
                     {"use_cache", true}};
    // Left out where there is none: versions of transformers write infinity differently.
    if (dt_limit_max) layout.config["time_step_limit"] = {dt_limit_min, *dt_limit_max};
    if (!dt_limit_max && dt_limit_min > 0)
      layout.config["time_step_limit"] = {dt_limit_min, {{"__float__", "Infinity"}}};
  } else {
    add_authors_config(layout.config);
  }
  layout.tensors.push_back(
      {fits_transformers() ? "backbone.embeddings.weight" : "backbone.embedding.weight",
       "embedding.weight"});
  for (int64_t i = 0; i < n_layers; ++i) {
    const std::string theirs = fmt::format("backbone.layers.{}.", i),
                      ours = fmt::format("layers.{}.", i);
    layout.tensors.push_back({theirs + "norm.weight", ours + "norm.weight"});
    const auto add = [&](const char* their_name, const std::string& our_name) {
      layout.tensors.push_back({theirs + "mixer." + their_name, ours + our_name});
    };
    if (is_attention(i)) {
      add("in_proj.weight", "attention.qkv.weight");
      add("out_proj.weight", "attention.out.weight");
      continue;
    }
    add("dt_bias", "mamba2.dt_bias");
    add("A_log", "mamba2.A_log");
    add("D", "mamba2.D");
    add("in_proj.weight", "mamba2.in.weight");
    add("conv1d.weight", "mamba2.conv.weight");
    add("conv1d.bias", "mamba2.conv.bias");
    add("norm.weight", "mamba2.norm.weight");
    add("out_proj.weight", "mamba2.out.weight");
  }
  layout.tensors.push_back({"backbone.norm_f.weight", "norm.weight"});
  if (!tie_embeddings) layout.tensors.push_back({"lm_head.weight", "head.weight"});
  return layout;
}

// The keys of state-spaces/mamba's MambaConfig.
void Mamba2Config::add_authors_config(nlohmann::json& out) const {
  std::vector<int64_t> attention_layers;
  for (int64_t i = 0; i < n_layers; ++i)
    if (is_attention(i)) attention_layers.push_back(i);
  nlohmann::json ssm = {{"layer", "Mamba2"},
                        {"d_state", d_state},
                        {"d_conv", d_conv},
                        {"expand", expand},
                        {"headdim", head_dim},
                        {"ngroups", n_groups},
                        {"dt_min", dt_init_min},
                        {"dt_max", dt_init_max},
                        {"dt_init_floor", dt_init_floor},
                        {"A_init_range", {a_init_min, a_init_max}}};
  if (dt_limit_max) ssm["dt_limit"] = {dt_limit_min, *dt_limit_max};
  if (!dt_limit_max && dt_limit_min > 0)
    ssm["dt_limit"] = {dt_limit_min, {{"__float__", "Infinity"}}};
  nlohmann::json attention = nlohmann::json::object();
  if (!attention_layers.empty())
    attention = {{"causal", true},
                 {"d_conv", 0},
                 {"head_dim", attention_width()},
                 {"num_heads", query_heads()},
                 {"num_heads_kv", kv_heads()},
                 {"out_proj_bias", false},
                 {"qkv_proj_bias", false},
                 {"rotary_emb_dim", attention_width()},
                 {"rotary_emb_base", rope_base}};
  out = {{"d_model", d_model},
         {"n_layer", n_layers},
         {"d_intermediate", 0},
         {"ssm_cfg", ssm},
         {"attn_layer_idx", attention_layers},
         {"attn_cfg", attention},
         {"rms_norm", true},
         {"residual_in_fp32", true},
         {"fused_add_norm", true},
         {"pad_vocab_size_multiple", 1},
         {"tie_embeddings", tie_embeddings}};
}

// [low, high], where high may be infinite: {"__float__": "Infinity"} in JSON, or absent.
void read_limit(const nlohmann::json& config, const char* key, double& low,
                std::optional<double>& high) {
  low = 0, high = {};
  if (!config.contains(key) || config.at(key).is_null()) return;
  const nlohmann::json& limit = config.at(key);
  if (!limit.is_array() || limit.size() != 2 || !limit[0].is_number())
    throw Error("config.json: {} has an unexpected value {}", key, limit.dump());
  low = limit[0].get<double>();
  if (limit[1].is_number())
    high = limit[1].get<double>();
  else if (!limit[1].is_null() &&
           !(limit[1].is_object() && limit[1].value("__float__", "") == "Infinity"))
    throw Error("config.json: {} has an unexpected value {}", key, limit.dump());
}

bool Mamba2Config::from_hf(const nlohmann::json& config) {
  if (config.contains("ssm_cfg") && config.at("ssm_cfg").is_object() &&
      HfConfigReader(config.at("ssm_cfg")).is("layer", "Mamba2")) {
    from_authors(config);
    return true;
  }
  const HfConfigReader hf(config);
  if (!hf.is("model_type", "mamba2")) return false;
  hf.require("hidden_act", "silu");
  hf.require("use_bias", false);
  hf.require("use_conv_bias", true);
  hf.require("rms_norm", true);
  hf.require("norm_before_gate", false);
  hf.require("n_groups", 1);  // transformers norms across groups, its training kernels within
  d_model = hf.get<int64_t>("hidden_size");
  n_layers = hf.get<int64_t>("num_hidden_layers");
  expand = hf.get<int64_t>("expand", 2);
  head_dim = hf.get<int64_t>("head_dim", 64);
  n_groups = hf.get<int64_t>("n_groups", 8);
  d_state = hf.get<int64_t>("state_size", 128);
  d_conv = hf.get<int64_t>("conv_kernel", 4);
  hf.require("num_heads", ssd_heads());
  pattern = {"mamba2"};
  norm_eps = hf.get<double>("layer_norm_epsilon", 1e-5);
  dt_init_min = hf.get<double>("time_step_min", 0.001);
  dt_init_max = hf.get<double>("time_step_max", 0.1);
  dt_init_floor = hf.get<double>("time_step_floor", 1e-4);
  read_limit(config, "time_step_limit", dt_limit_min, dt_limit_max);
  init_std = hf.get<double>("initializer_range", 0.1);
  tie_embeddings = hf.get<bool>("tie_word_embeddings", false);
  vocab_size = hf.get<int64_t>("vocab_size");
  return true;
}

void Mamba2Config::from_authors(const nlohmann::json& config) {
  const HfConfigReader all(config), ssm(config.at("ssm_cfg"));
  all.require("rms_norm", true);
  all.require("d_intermediate", 0);
  for (const char* flag : {"bias", "D_has_hdim", "norm_before_gate"}) ssm.require(flag, false);
  for (const char* flag : {"conv_bias", "rmsnorm"}) ssm.require(flag, true);
  d_model = all.get<int64_t>("d_model");
  n_layers = all.get<int64_t>("n_layer");
  d_state = ssm.get<int64_t>("d_state", 128);
  d_conv = ssm.get<int64_t>("d_conv", 4);
  expand = ssm.get<int64_t>("expand", 2);
  head_dim = ssm.get<int64_t>("headdim", 64);
  n_groups = ssm.get<int64_t>("ngroups", 1);
  ssm.require("d_ssm", inner());
  dt_init_min = ssm.get<double>("dt_min", 0.001);
  dt_init_max = ssm.get<double>("dt_max", 0.1);
  dt_init_floor = ssm.get<double>("dt_init_floor", 1e-4);
  read_limit(config.at("ssm_cfg"), "dt_limit", dt_limit_min, dt_limit_max);
  if (config.at("ssm_cfg").contains("A_init_range")) {
    a_init_min = config.at("ssm_cfg").at("A_init_range").at(0).get<double>();
    a_init_max = config.at("ssm_cfg").at("A_init_range").at(1).get<double>();
  }
  pattern.assign(static_cast<size_t>(n_layers), "mamba2");
  for (const nlohmann::json& layer : config.value("attn_layer_idx", nlohmann::json::array()))
    pattern.at(layer.get<size_t>()) = "attention";
  if (any_attention()) {
    const HfConfigReader attention(config.at("attn_cfg"));
    attention.require("causal", true);
    attention.require("d_conv", 0);
    attention.require("mlp_dim", 0);
    attention.require("rotary_emb_interleaved", false);
    for (const char* flag : {"qkv_proj_bias", "out_proj_bias"})
      if (attention.get<bool>(flag, true))
        throw Error("config.json: {} is true, only false is supported", flag);
    n_heads = attention.get<int64_t>("num_heads");
    n_kv_heads = attention.get<int64_t>("num_heads_kv", *n_heads);
    attention.require("head_dim", attention_width());
    if (attention.get<int64_t>("rotary_emb_dim", 1) != attention_width())
      throw Error("config.json: rotary_emb_dim must be the width of a head, {}", attention_width());
    rope_base = attention.get<double>("rotary_emb_base", 10000.0);
  } else {
    pattern = {"mamba2"};
  }
  tie_embeddings = all.get<bool>("tie_embeddings", true);
  vocab_size = all.get<int64_t>("vocab_size");
  vocab_multiple = all.get<int64_t>("pad_vocab_size_multiple", 8);
}

const RegisterArchitecture<Mamba2Config> kMamba2(
    "mamba2", "state space duality, data-dependent decay per head (arXiv 2405.21060)",
    {"{d_model: 32, n_layers: 2, head_dim: 16, d_state: 24, chunk: 16}",
     "{d_model: 32, n_layers: 2, head_dim: 8, d_state: 16, n_groups: 2, form: parallel}",
     "{d_model: 32, n_layers: 2, head_dim: 16, d_state: 16, d_conv: 2, form: recurrent, "
     "tie_embeddings: true}",
     "{d_model: 32, n_layers: 3, head_dim: 16, d_state: 16, n_heads: 2, n_kv_heads: 1, pattern: "
     "[mamba2, attention], dt_limit_max: 0.5}"});

}  // namespace
}  // namespace ceiling

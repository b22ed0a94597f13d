// Hawk and Griffin (De et al., arXiv 2402.19427), and RecurrentGemma (arXiv 2404.07839), the
// released Griffin: gated diagonal recurrences (RG-LRU), in Griffin mixed with local attention.
//   recurrent  x <- x + O (h * gelu(W_y n)),  h = RG-LRU(conv4(W_x n)),  n = norm(x); the gates of
//              the RG-LRU are block-diagonal products of the convolution's output
//   attention  one key/value head, rotary positions on the first half of each head, a window
//   both       x <- x + W_down (gelu(W_gate n) * W_up n), with biases
// Parameters per layer: recurrent 3 D R + 2 R^2 / H + 10 R, attention 2 D^2 + 2 D hd, feed-forward
// 3 D F.  Decode state of a sequence: R numbers in fp32 and 3 R per recurrent layer, at most
// 2 hd (window - 1) per attention layer.
// Departures: the width of the gates' blocks is R / n_heads, as the released code has it (the paper
// says 16 blocks); lambda starts as in that code, a = sigmoid(-lambda) with a^2 uniform in
// [0.9^2, 0.999^2] (the paper's text puts a^8 there); `window` counts the token itself, as
// transformers does (DeepMind's window of w is w + 1 here).
#include <ATen/TensorOperators.h>
#include <c10/util/BFloat16.h>

#include <cmath>

#include "base/error.h"
#include "modules/layers/attention.h"
#include "modules/layers/hf_config.h"
#include "modules/layers/residual_block.h"
#include "modules/lm.h"
#include "modules/ops/block_linear/block_linear.h"
#include "modules/ops/causal_conv1d/causal_conv1d.h"
#include "modules/ops/gated/gated.h"
#include "modules/ops/linear/linear.h"
#include "modules/ops/linear_scan/linear_scan.h"
#include "modules/registry.h"

namespace ceiling {
namespace {

constexpr int64_t kConvWidth = 4;

struct GriffinConfig : ModelConfig {
  std::vector<std::string> pattern = {"recurrent", "recurrent", "attention"};
  int64_t d_model = 512, n_layers = 9, n_heads = 4, window = 1024;
  std::optional<int64_t> lru_width, d_ff;
  double rope_base = 10000, norm_eps = 1e-6, logit_cap = 0;
  bool embedding_scale = false, tie_embeddings = true;
  int64_t vocab_multiple = 1;

  void fields(Fields& f) override {
    f("pattern", pattern, "mixers of the layers, repeated up to n_layers: recurrent or attention");
    f("d_model", d_model, AtLeast{1}, "residual width D");
    f("n_layers", n_layers, AtLeast{1}, "number of blocks L");
    f("n_heads", n_heads, AtLeast{1},
      "query heads of attention, which share one key/value head, and blocks of the gates' "
      "matrices");
    f("lru_width", lru_width, "auto", AtLeast{1},
      "width R of the recurrence; auto: 4/3 d_model rounded up to a multiple of 16 n_heads");
    f("window", window, AtLeast{2}, "keys that a query of attention sees, its own among them");
    f("d_ff", d_ff, "auto", AtLeast{1}, "width F of the feed-forward; auto: 3 d_model");
    f("rope_base", rope_base, MoreThan{1}, "base of the rotary frequencies");
    f("norm_eps", norm_eps, MoreThan{0}, "epsilon of RMSNorm");
    f("embedding_scale", embedding_scale,
      "multiply embeddings by sqrt(d_model), as RecurrentGemma; the paper's models do not");
    f("logit_cap", logit_cap, AtLeast{0},
      "logits become cap tanh(logits / cap): 30 in RecurrentGemma, 0 (none) in the paper; with a "
      "cap "
      "and embedding_scale an export loads in transformers");
    f("tie_embeddings", tie_embeddings, "use the embedding matrix as output head");
    f("vocab_multiple", vocab_multiple, AtLeast{1},
      "round the rows of embedding and head up to a multiple; padding rows take no probability");
  }

  int64_t width() const {
    const int64_t multiple = 16 * n_heads;
    return lru_width.value_or((4 * d_model / 3 + multiple - 1) / multiple * multiple);
  }
  int64_t ff() const { return d_ff.value_or(3 * d_model); }
  bool attends(int64_t layer) const {
    return pattern[static_cast<size_t>(layer) % pattern.size()] == "attention";
  }
  bool all_recurrent() const {
    for (int64_t i = 0; i < n_layers; ++i)
      if (attends(i)) return false;
    return true;
  }
  // RecurrentGemma rounds the factor to bfloat16.
  double embedding_factor() const {
    return embedding_scale ? static_cast<double>(c10::BFloat16(
                                 static_cast<float>(std::sqrt(static_cast<double>(d_model)))))
                           : 1.0;
  }
  // transformers' RecurrentGemma always scales and caps; other models are named so that it refuses.
  bool is_recurrent_gemma() const { return embedding_scale && logit_cap > 0; }

  void check() const override {
    if (pattern.empty()) throw Error("model.pattern: a list of recurrent and attention is needed");
    for (const std::string& mixer : pattern)
      if (mixer != "recurrent" && mixer != "attention")
        throw Error("model.pattern: '{}' is none of recurrent, attention", mixer);
    if (width() % n_heads != 0)
      throw Error("model.n_heads: {} does not divide model.lru_width {}", n_heads, width());
    if (all_recurrent()) return;
    if (d_model % n_heads != 0)
      throw Error("model.n_heads: {} does not divide model.d_model {}", n_heads, d_model);
    if (d_model / n_heads % 4 != 0)
      throw Error(
          "model.n_heads: d_model / n_heads is {}, no multiple of 4; half of a head turns, "
          "in pairs",
          d_model / n_heads);
  }

  std::unique_ptr<LanguageModel> build() const override;
  HfLayout hf_layout() const override;
  bool from_hf(const nlohmann::json& config) override;

 protected:
  // Which of the two architectures a config.json belongs to.
  virtual bool is_hawk() const { return false; }
};

struct HawkConfig final : GriffinConfig {
  HawkConfig() {
    pattern = {"recurrent"};
    n_layers = 8;
  }

 protected:
  bool is_hawk() const override { return true; }
};

Init normal_of_fan_in(int64_t fan_in, double scale = 1) {
  return init::normal(std::sqrt(scale / static_cast<double>(fan_in)));
}
// Outputs into the residual stream: variance 2 / (L fan_in).
Init residual_init(const GriffinConfig& c, int64_t fan_in) {
  return normal_of_fan_in(fan_in, 2 / static_cast<double>(c.n_layers));
}

// lambda with sigmoid(-lambda)^2 uniform between 0.9^2 and 0.999^2.
Init lambda_init() {
  const Init uniform = init::uniform(0.9 * 0.9 + 1e-8, 0.999 * 0.999 + 1e-8);
  return [uniform](at::Tensor& value, const RandomStream& stream) {
    uniform(value, stream);
    value.copy_((value.to(at::kDouble).log() * -0.5).expm1().log());
  };
}

class Recurrent final : public Mixer {
 public:
  explicit Recurrent(const GriffinConfig& c)
      : width_(c.width()),
        block_(c.width() / c.n_heads),
        y_(parameter("y.weight", {width_, c.d_model}, {.init = normal_of_fan_in(c.d_model)})),
        y_bias_(parameter("y.bias", {width_}, {.decay = false})),
        x_(parameter("x.weight", {width_, c.d_model}, {.init = normal_of_fan_in(c.d_model)})),
        x_bias_(parameter("x.bias", {width_}, {.decay = false})),
        conv_(parameter("conv.weight", {width_, 1, kConvWidth},
                        {.init = normal_of_fan_in(kConvWidth, 0.01)})),
        conv_bias_(parameter("conv.bias", {width_}, {.decay = false})),
        lambda_(parameter("lambda", {width_},
                          {.init = lambda_init(), .decay = false, .keep_fp32 = true})),
        recurrence_(gate(c, "recurrence_gate")),
        input_(gate(c, "input_gate")),
        out_(parameter("out.weight", {c.d_model, width_}, {.init = residual_init(c, width_)})),
        out_bias_(parameter("out.bias", {c.d_model}, {.decay = false})) {}

  at::Tensor forward(const at::Tensor& x, const MixContext& context, State* state) override {
    const bool continues = state && !state->empty();
    const at::Tensor y = linear(x, y_, &y_bias_);
    const auto conv = causal_conv1d(linear(x, x_, &x_bias_), conv_, &conv_bias_,
                                    continues ? state->tensors[1] : at::Tensor(), context.segments,
                                    /*silu=*/false);
    const at::Tensor& u = conv.y;
    const auto out = rg_lru(u, block_linear(u, recurrence_.weight), block_linear(u, input_.weight),
                            {lambda_, recurrence_.bias, input_.bias},
                            continues ? state->tensors[0] : at::Tensor(), context.segments);
    if (state) state->tensors = {out.state, conv.state};
    return linear(gated(y, out.h, Activation::kGeluTanh), out_, &out_bias_);
  }

  double mixing_flops_per_token(int64_t /*seq_len*/) const override {
    // Two gates, the convolution, and about 10 for the recurrence.
    return static_cast<double>(4 * width_ * block_ + 2 * kConvWidth * width_ + 10 * width_);
  }
  double state_bytes(int64_t /*n_tokens*/, int64_t element_bytes) const override {
    return static_cast<double>(width_ * (4 + (kConvWidth - 1) * element_bytes));
  }
  // [B, R] fp32; [B, 3, R], the convolution's latest inputs, oldest first.
  std::vector<std::string> state_names() const override { return {"rg_lru_state", "conv1d_state"}; }

 private:
  struct Gate {
    Parameter &weight, &bias;  // [H, R / H, R / H], [H, R / H] fp32
  };
  Gate gate(const GriffinConfig& c, const std::string& name) {
    const int64_t blocks = c.n_heads;
    return {
        parameter(name + ".weight", {blocks, block_, block_}, {.init = normal_of_fan_in(block_)}),
        parameter(name + ".bias", {blocks, block_}, {.decay = false, .keep_fp32 = true})};
  }

  int64_t width_, block_;
  Parameter &y_, &y_bias_, &x_, &x_bias_, &conv_, &conv_bias_, &lambda_;
  Gate recurrence_, input_;
  Parameter &out_, &out_bias_;
};

std::unique_ptr<LanguageModel> GriffinConfig::build() const {
  std::vector<std::unique_ptr<Block>> blocks;
  for (int64_t i = 0; i < n_layers; ++i) {
    std::unique_ptr<Mixer> mixer;
    if (attends(i))
      mixer =
          std::make_unique<Attention>(AttentionOptions{.d_model = d_model,
                                                       .n_heads = n_heads,
                                                       .n_kv_heads = 1,
                                                       .head_dim = d_model / n_heads,
                                                       .rope_base = rope_base,
                                                       .rotary_dim = d_model / n_heads / 2,
                                                       .window = window,
                                                       .out_bias = true,
                                                       .qkv_init = normal_of_fan_in(d_model),
                                                       .out_init = residual_init(*this, d_model)});
    else
      mixer = std::make_unique<Recurrent>(*this);
    auto ffn = std::make_unique<GatedFfn>(d_model, ff(), Activation::kGeluTanh,
                                          normal_of_fan_in(d_model), residual_init(*this, ff()),
                                          /*biases=*/true);
    blocks.push_back(std::make_unique<ResidualBlock>(attends(i) ? "attention" : "recurrent",
                                                     std::move(mixer), std::move(ffn), d_model,
                                                     norm_eps));
  }
  return std::make_unique<LanguageModel>(
      LanguageModel::Options{
          .vocab_size = vocab_size,
          .vocab_rows = (vocab_size + vocab_multiple - 1) / vocab_multiple * vocab_multiple,
          .d_model = d_model,
          .tie_embeddings = tie_embeddings,
          .embedding_scale = embedding_factor(),
          .logit_cap = logit_cap,
          .norm_eps = norm_eps,
          .embedding_init = normal_of_fan_in(d_model),
          .head_init = normal_of_fan_in(d_model)},
      std::move(blocks));
}

// transformers' names; gains are stored as gain - 1. A model without scale or cap has no place
// there: the type griffin, with what differs, keeps transformers from loading it as another one.
HfLayout GriffinConfig::hf_layout() const {
  HfLayout layout;
  layout.config = {
      {"architectures", {"RecurrentGemmaForCausalLM"}},
      {"model_type", is_recurrent_gemma() ? "recurrent_gemma" : "griffin"},
      {"hidden_size", d_model},
      {"intermediate_size", 2 * ff()},  // halved there
      {"num_hidden_layers", n_layers},
      {"num_attention_heads", n_heads},
      {"num_key_value_heads", 1},
      {"lru_width", width()},
      {"attention_window_size", window},
      {"conv1d_width", kConvWidth},
      {"logits_soft_cap", logit_cap},
      {"block_types", pattern},
      {"hidden_activation", "gelu_pytorch_tanh"},
      {"partial_rotary_factor", 0.5},
      {"rope_theta", rope_base},
      {"rope_parameters",
       {{"rope_type", "default"}, {"rope_theta", rope_base}, {"partial_rotary_factor", 0.5}}},
      {"attention_bias", false},
      {"attention_dropout", 0.0},
      {"rms_norm_eps", norm_eps},
      {"max_position_embeddings", context},
      {"tie_word_embeddings", tie_embeddings},
      {"pad_token_id", nullptr},
      // transformers' cache asks where the first attention layer is.
      {"use_cache", !all_recurrent()}};
  if (!is_recurrent_gemma()) {
    layout.config["architectures"] = {"Griffin"};
    layout.config["embeddings_scale_by_sqrt_dim"] = embedding_scale;
  }
  layout.tensors.push_back({"model.embed_tokens.weight", "embedding.weight"});
  for (int64_t i = 0; i < n_layers; ++i) {
    const std::string theirs = fmt::format("model.layers.{}.", i),
                      ours = fmt::format("layers.{}.", i);
    const std::string mixer = ours + (attends(i) ? "attention" : "recurrent");
    const auto add = [&](const std::string& hf_name, const std::string& name, int64_t begin = 0,
                         int64_t end = -1, double shift = 0) {
      layout.tensors.push_back({theirs + hf_name, name, begin, end, shift});
    };
    const auto both = [&](const std::string& hf_name, const std::string& name, int64_t begin = 0,
                          int64_t end = -1) {
      add(hf_name + ".weight", name + ".weight", begin, end);
      add(hf_name + ".bias", name + ".bias", begin, end);
    };
    add("temporal_pre_norm.weight", mixer + "_norm.weight", 0, -1, -1);
    if (attends(i)) {
      const int64_t head_dim = d_model / n_heads;
      add("temporal_block.q_proj.weight", mixer + ".qkv.weight", 0, d_model);
      add("temporal_block.k_proj.weight", mixer + ".qkv.weight", d_model, d_model + head_dim);
      add("temporal_block.v_proj.weight", mixer + ".qkv.weight", d_model + head_dim,
          d_model + 2 * head_dim);
      both("temporal_block.o_proj", mixer + ".out");
    } else {
      both("temporal_block.linear_y", mixer + ".y");
      both("temporal_block.linear_x", mixer + ".x");
      both("temporal_block.linear_out", mixer + ".out");
      both("temporal_block.conv_1d", mixer + ".conv");
      add("temporal_block.rg_lru.recurrent_param", mixer + ".lambda");
      add("temporal_block.rg_lru.input_gate_weight", mixer + ".input_gate.weight");
      add("temporal_block.rg_lru.input_gate_bias", mixer + ".input_gate.bias");
      add("temporal_block.rg_lru.recurrent_gate_weight", mixer + ".recurrence_gate.weight");
      add("temporal_block.rg_lru.recurrent_gate_bias", mixer + ".recurrence_gate.bias");
    }
    add("channel_pre_norm.weight", ours + "ffn_norm.weight", 0, -1, -1);
    both("mlp_block.gate_proj", ours + "ffn.gate_up", 0, ff());
    both("mlp_block.up_proj", ours + "ffn.gate_up", ff(), 2 * ff());
    both("mlp_block.down_proj", ours + "ffn.down");
  }
  layout.tensors.push_back({"model.final_norm.weight", "norm.weight", 0, -1, -1});
  if (!tie_embeddings) layout.tensors.push_back({"lm_head.weight", "head.weight"});
  return layout;
}

bool GriffinConfig::from_hf(const nlohmann::json& config) {
  const HfConfigReader hf(config);
  const bool recurrent_gemma = hf.is("model_type", "recurrent_gemma");
  if (!recurrent_gemma && !hf.is("model_type", "griffin")) return false;
  n_layers = hf.get<int64_t>("num_hidden_layers", 26);
  pattern = config.value("block_types", GriffinConfig().pattern);
  if (!pattern.empty() && all_recurrent() != is_hawk()) return false;
  d_model = hf.get<int64_t>("hidden_size", 2560);
  n_heads = hf.get<int64_t>("num_attention_heads", 10);
  if (!is_hawk() && hf.get<int64_t>("num_key_value_heads", n_heads) != 1)
    throw Error("config.json: num_key_value_heads must be 1");
  hf.require("conv1d_width", kConvWidth);
  hf.require("hidden_activation", "gelu_pytorch_tanh");
  hf.require("attention_bias", false);
  lru_width = hf.get<int64_t>("lru_width", d_model);
  window = hf.get<int64_t>("attention_window_size", 2048);
  d_ff = hf.get<int64_t>("intermediate_size", 3 * d_model) / 2;
  norm_eps = hf.get<double>("rms_norm_eps", 1e-6);
  logit_cap = hf.get<double>("logits_soft_cap", recurrent_gemma ? 30.0 : 0.0);
  embedding_scale = recurrent_gemma || hf.get<bool>("embeddings_scale_by_sqrt_dim", false);
  tie_embeddings = hf.get<bool>("tie_word_embeddings", true);
  rope_base = hf.get<double>("rope_theta", 10000.0);
  hf.require("partial_rotary_factor", 0.5);
  if (config.contains("rope_parameters")) {
    const HfConfigReader rope(config.at("rope_parameters"));
    rope.require("rope_type", "default");
    rope.require("partial_rotary_factor", 0.5);
    rope_base = rope.get<double>("rope_theta", rope_base);
  }
  vocab_size = hf.get<int64_t>("vocab_size", 256000);
  context = hf.get<int64_t>("max_position_embeddings", 8192);
  return true;
}

// A window of 5 is shorter than every test's sequence, one of 50 longer than some.
const RegisterArchitecture<GriffinConfig> kGriffin(
    "griffin",
    "gated diagonal recurrence and local attention, RecurrentGemma (arXiv 2402.19427, 2404.07839)",
    {"{d_model: 32, n_layers: 3, n_heads: 2, window: 5, tie_embeddings: false}",
     "{d_model: 32, n_layers: 2, n_heads: 4, window: 50, pattern: [attention, recurrent], "
     "lru_width: 24, d_ff: 48, embedding_scale: true, logit_cap: 30, tie_embeddings: true}"});
const RegisterArchitecture<HawkConfig> kHawk(
    "hawk", "gated diagonal recurrence, RG-LRU (arXiv 2402.19427)",
    {"{d_model: 32, n_layers: 2, n_heads: 2, lru_width: 48, d_ff: 40, tie_embeddings: true, "
     "vocab_multiple: 64}"});

}  // namespace
}  // namespace ceiling

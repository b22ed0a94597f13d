#include "train/metrics.h"

#include <spdlog/spdlog.h>

#include <chrono>
#include <cmath>

#include "base/error.h"
#include "base/text.h"

namespace ceiling {

std::string readable(const StepMetrics& m) {
  std::string line =
      fmt::format("step {}/{} | tokens {} | loss {:.4f} | grad {:.3f} | lr {:.2e} | {} tok/s",
                  m.step, m.steps, format_count(static_cast<double>(m.tokens)), m.loss_nats,
                  m.grad_norm, m.lr, format_thousands(std::llround(m.tokens_per_s)));
  if (m.mfu > 0) line += fmt::format(" | mfu {:.1f} %", 100 * m.mfu);
  return line + fmt::format(" | mem {} | data {:.1f} ms | eta {}", format_bytes(m.memory_bytes),
                            m.data_wait_ms, format_duration(m.eta_s));
}

Metrics::Metrics(const std::string& run_dir, int64_t resume_step, bool tensorboard) {
  const std::string path = run_dir + "/metrics.jsonl";
  if (fs::exists(path)) {
    // A line cut by a kill, and steps that will be taken again, go; a rewritten file replaces the
    // old one as a whole.
    std::string kept;
    for (const std::string& line : split(read_file(path), '\n')) {
      const auto parsed = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
      if (!parsed.is_object() || parsed.value("step", int64_t{0}) > resume_step) continue;
      kept += line + "\n";
      if (parsed.value("event", "") == "valid") evaluated_step_ = parsed.value("step", int64_t{0});
    }
    write_file_atomic(path, kept);
  }
  file_ = std::make_unique<File>(path, "ab");
  if (tensorboard) tensorboard_ = std::make_unique<TensorboardWriter>(run_dir + "/tensorboard");
}

void Metrics::write(const nlohmann::json& line) {
  file_->write(line.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n");
  file_->flush();
}

void Metrics::step(const StepMetrics& m) {
  spdlog::info(readable(m));
  write({{"event", "step"},
         {"step", m.step},
         {"tokens", m.tokens},
         {"n_targets", m.n_targets},
         {"loss_nats", m.loss_nats},
         {"grad_norm", m.grad_norm},
         {"lr", m.lr},
         {"tokens_per_s", m.tokens_per_s},
         {"mfu", m.mfu},
         {"memory_bytes", m.memory_bytes},
         {"data_wait_ms", m.data_wait_ms},
         {"eta_s", m.eta_s},
         {"data_hash", m.data_hash},
         {"unix_time_s",
          std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch())
              .count()}});
  if (!tensorboard_) return;
  tensorboard_->scalar("train/loss", m.step, m.loss_nats);
  tensorboard_->scalar("train/grad_norm", m.step, m.grad_norm);
  tensorboard_->scalar("train/lr", m.step, m.lr);
  tensorboard_->scalar("speed/tokens_per_s", m.step, m.tokens_per_s);
  tensorboard_->scalar("speed/mfu", m.step, m.mfu);
  tensorboard_->scalar("speed/data_wait_ms", m.step, m.data_wait_ms);
  tensorboard_->flush();
}

void Metrics::event(const std::string& event, int64_t step, nlohmann::json fields) {
  if (event == "valid") evaluated_step_ = step;
  if (tensorboard_) {
    const nlohmann::json flat = fields.flatten();  // keys are "/loss_nats", "/needle/accuracy"
    for (const auto& [key, value] : flat.items()) {
      if (value.is_number()) tensorboard_->scalar(event + key, step, value.get<double>());
      if (value.is_string()) tensorboard_->text(event + key, step, value.get<std::string>());
    }
    tensorboard_->flush();
  }
  nlohmann::json line = {{"event", event}, {"step", step}};
  line.update(fields);
  write(line);
}

}  // namespace ceiling

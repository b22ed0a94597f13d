#include "train/data_parallel.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <algorithm>
#include <limits>

#include "base/hash.h"
#include "base/text.h"
#include "modules/ops/grad_norm/grad_norm.h"

namespace ceiling {

namespace {

// -1 the embedding, n_layers final norm and head.
int64_t layer_of(const std::string& name, int64_t n_layers) {
  if (name.rfind("embedding.", 0) == 0) return -1;
  if (name.rfind("layers.", 0) != 0) return n_layers;
  return parse_int(split(name, '.')[1]).value_or(n_layers);
}

// Positions where a bucket may end: between layers, once it is large enough.
std::vector<int64_t> cuts_of(const ParameterStore::Slots& slots, int64_t bucket_elements) {
  std::vector<int64_t> cuts;
  int64_t begin = 0;
  constexpr int64_t kAnyHead = std::numeric_limits<int64_t>::max();
  for (size_t i = 1; i < slots.by_offset.size(); ++i) {
    const auto& slot = slots.by_offset[i];
    const bool other_layer = layer_of(slot.parameter->name, kAnyHead) !=
                             layer_of(slots.by_offset[i - 1].parameter->name, kAnyHead);
    if (slot.offset >= slots.tail_begin) break;
    if (!other_layer || slot.offset - begin < bucket_elements) continue;
    cuts.push_back(slot.offset);
    begin = slot.offset;
  }
  return cuts;
}

}  // namespace

ShardLayout cut_for_ranks(const ParameterStore::Slots& slots, const Communicator& world,
                          int64_t zero, int64_t bucket_elements) {
  if (world.size() == 1 || zero == 0) return ShardLayout(slots.n_flat);
  return ShardLayout(slots.n_flat, slots.tail_begin, cuts_of(slots, bucket_elements), world.rank(),
                     world.size());
}

DataParallel::DataParallel(Communicator& world, ParameterStore& store, LanguageModel& model,
                           int64_t bucket_elements)
    : world_(world), store_(store), model_(model), sharded_(!store.shards().whole()) {
  if (world_.size() == 1) return;
  std::vector<FlatRange> ranges = store.shards().buckets();
  if (!sharded_) {
    const ParameterStore::Slots slots = ParameterStore::lay_out(model);
    std::vector<int64_t> ends = cuts_of(slots, bucket_elements);
    ends.push_back(slots.n_flat);
    for (int64_t begin = 0; const int64_t end : ends) ranges.push_back({begin, end}), begin = end;
  } else if (store.shards().tail().length() > 0) {
    ranges.push_back(store.shards().tail());
  }
  for (const FlatRange& range : ranges) {
    Bucket bucket{range, model.n_layers(), model.n_layers() - 1, false};
    bucket.tail = sharded_ && range.begin == store.shards().tail().begin;
    for (const auto& slot : store.slots()) {
      if (slot.offset >= range.end || slot.offset + slot.numel <= range.begin) continue;
      const int64_t layer = layer_of(slot.parameter->name, model.n_layers());
      bucket.first_layer = std::min(bucket.first_layer, layer);
      bucket.ready_layer = std::min(bucket.ready_layer, layer);
    }
    buckets_.push_back(bucket);
  }
  const at::Device device = store.grad.device();
  if (!device.is_cpu())
    stream_ = c10::impl::VirtualGuardImpl(device.type())
                  .getStreamFromGlobalPool(device, /*isHighPriority=*/true);
  for (size_t i = 0; i < buckets_.size(); ++i) gathered_.emplace_back(device.type());
  reduced_.resize(buckets_.size());
  waited_.resize(buckets_.size());
  model_.observer = this;
}

DataParallel::~DataParallel() {
  if (model_.observer == this) model_.observer = nullptr;
}

template <class Work>
void DataParallel::aside(const Work& work) {
  if (!stream_) return work();
  const c10::impl::VirtualGuardImpl impl(stream_->device_type());
  c10::Event now(stream_->device_type());
  now.record(impl.getStream(stream_->device()));
  now.block(*stream_);
  const c10::StreamGuard guard(*stream_);
  work();
}

void DataParallel::begin(bool first, bool last) {
  first_ = first && sharded_, last_ = last && world_.size() > 1;
  std::fill(reduced_.begin(), reduced_.end(), false);
  std::fill(waited_.begin(), waited_.end(), !first_);
  if (!first_) return;
  // In the order of use; the embedding's is waited for at once, the others come behind the layers.
  std::vector<size_t> order(buckets_.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return buckets_[a].first_layer < buckets_[b].first_layer;
  });
  aside([&] {
    at::NoGradGuard no_grad;
    for (const size_t i : order) {
      gather(buckets_[i]);
      if (stream_) gathered_[i].record(*stream_);
    }
  });
  stale_ = false;
}

void DataParallel::before_forward(int64_t layer) {
  for (size_t i = 0; i < buckets_.size(); ++i) {
    if (waited_[i] || buckets_[i].first_layer > layer) continue;
    waited_[i] = true;
    if (stream_)
      gathered_[i].block(
          c10::impl::VirtualGuardImpl(stream_->device_type()).getStream(stream_->device()));
  }
}

void DataParallel::after_backward(int64_t layer) {
  if (!last_) return;
  for (size_t i = buckets_.size(); i-- > 0;) {
    if (reduced_[i] || buckets_[i].ready_layer < layer) continue;
    reduced_[i] = true;
    aside([&] { reduce(buckets_[i]); });
  }
}

void DataParallel::end() {
  before_forward(std::numeric_limits<int64_t>::max());
  after_backward(-1);  // what has the embedding in it
  if (!stream_ || !(first_ || last_)) return;
  c10::Event done(stream_->device_type());
  done.record(*stream_);
  done.block(c10::impl::VirtualGuardImpl(stream_->device_type()).getStream(stream_->device()));
}

void DataParallel::reduce(const Bucket& bucket) {
  at::NoGradGuard no_grad;
  at::Tensor grad = at_range(store_.grad, bucket.range);
  if (!sharded_ || bucket.tail) return world_.all_reduce(grad);
  at::Tensor own = at_range(store_.grad, store_.shards().slice(bucket.range, world_.rank()));
  world_.reduce_scatter(own, grad);
}

void DataParallel::gather(const Bucket& bucket) {
  if (bucket.tail) return;  // every rank updates all of it
  at::Tensor all = at_range(store_.compute, bucket.range);
  world_.all_gather(all,
                    at_range(store_.compute, store_.shards().slice(bucket.range, world_.rank())));
}

at::Tensor DataParallel::squared_norm() const {
  if (!sharded_) return ceiling::squared_norm(store_.grad);
  at::Tensor sum =
      at::zeros({}, at::TensorOptions().dtype(at::kDouble).device(store_.grad.device()));
  for (const Bucket& bucket : buckets_) {
    if (bucket.tail && world_.rank() > 0) continue;  // counted once
    sum.add_(ceiling::squared_norm(
        at_range(store_.grad,
                 bucket.tail ? bucket.range : store_.shards().slice(bucket.range, world_.rank()))));
  }
  return sum;
}

void DataParallel::gather_weights() {
  if (!stale_) return;
  begin(/*first=*/true, /*last=*/false);
  end();
}

void DataParallel::clear_gradients() {
  if (sharded_) store_.grad.zero_();  // the update has cleared only what it read
}

void DataParallel::write_to(CheckpointContent& content) {
  const bool first = world_.rank() == 0;
  if (sharded_) {
    if (const at::Tensor masters = gather_masters(); masters.defined())
      content.weights = store_.named(masters);
  } else if (first) {
    content.weights = store_.named_masters();
  }
  content.layout_hash = store_.layout_hash();
  content.range = {world_.rank(), world_.size(), store_.n_flat(), {}};
  int64_t n_own = 0;
  for (const OwnedPiece& piece : store_.shards().pieces()) {
    // What all ranks have, rank 0 writes.
    if (!first && (!sharded_ || piece.range.begin == store_.shards().tail().begin)) continue;
    content.range.pieces.emplace_back(piece.range.begin, piece.range.end);
    n_own += piece.range.length();
  }
  content.flat = {{"m", store_.m.narrow(0, 0, n_own)}, {"v", store_.v.narrow(0, 0, n_own)}};
}

void DataParallel::read_from(const Checkpoint& checkpoint) {
  store_.load([&](const std::vector<NamedTensor>& named) { checkpoint.load_weights(named); });
  for (const auto& [name, buffer] : {std::pair{"m", store_.m}, std::pair{"v", store_.v}})
    for (const OwnedPiece& piece : store_.shards().pieces())
      checkpoint.load_flat(name, store_.layout_hash(),
                           buffer.narrow(0, piece.offset, piece.range.length()), piece.range.begin);
}

at::Tensor DataParallel::gather_masters() {
  const bool keep = world_.rank() == 0;
  at::Tensor host = keep ? at::zeros({store_.n_flat()}, store_.master.scalar_type()) : at::Tensor();
  size_t piece = 0;
  for (const Bucket& bucket : buckets_) {
    const OwnedPiece& own = store_.shards().pieces()[piece++];
    const at::Tensor mine = store_.master.narrow(0, own.offset, own.range.length());
    at::Tensor all = mine;
    if (!bucket.tail) {
      all = at::empty({bucket.range.length()}, mine.options());
      world_.all_gather(all, mine);
    }
    if (keep) at_range(host, bucket.range).copy_(all);
  }
  return host;
}

// Sums of the bit patterns over rows: any bit that differs changes a sum, and only 64 bits of each
// row leave the device.
std::string DataParallel::weights_fingerprint() const {
  const at::Tensor& weights = store_.compute.defined() ? store_.compute : store_.master;
  constexpr int64_t kRow = 1 << 16;
  Sha256 hash;
  const at::Tensor bits = weights.view(weights.element_size() == 2   ? at::kShort
                                       : weights.element_size() == 4 ? at::kInt
                                                                     : at::kLong);
  const int64_t whole = bits.numel() / kRow * kRow;
  for (const at::Tensor& sums :
       {bits.narrow(0, 0, whole).view({-1, kRow}).sum({1}, false, at::kLong),
        bits.narrow(0, whole, bits.numel() - whole).sum({0}, true, at::kLong)}) {
    const at::Tensor host = sums.cpu();
    hash.update(host.const_data_ptr(), host.nbytes());
  }
  return hash.hex();
}

}  // namespace ceiling

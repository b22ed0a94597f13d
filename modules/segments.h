// Packed documents: which tokens of a row belong together. Every mixer starts afresh at a boundary:
// attention masks, recurrent state, convolution taps, token shift, normalisation statistics.
#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>

namespace ceiling {

struct Segments {
  // [B, T] int32, non-decreasing along T; undefined: every row is one document that continues the
  // carried state. 0 continues the document of the carried state (or, with none, starts the first);
  // each larger index starts a new one, so a row whose first index is 1 discards the carried state.
  at::Tensor document;
  // Derived on construction (make_segments); undefined together with `document`.
  at::Tensor start;     // [B, T] uint8: 1 where token t starts a new document (its predecessor must
                        // not be seen)
  at::Tensor position;  // [B, T] int32: tokens since the last start in this row; before any start,
                        // counted from the row's begin
  // [n + 1] int32: where documents begin in the rows written one after another, rows' begins
  // included, and B T at the end, which may be repeated; for attention over packed documents. Only
  // where `document` came from the CPU, else undefined.
  at::Tensor bounds;
  bool any() const { return document.defined(); }
};

// From a [B, T] int32 document index (CPU or GPU). If no row has a boundary the result is `any() ==
// false`, unless `room` is given: then the segments are always there, `bounds` with at least that
// many entries, since a recorded graph needs one path and one size for all batches.
Segments make_segments(const at::Tensor& document, int64_t room = 0);

}  // namespace ceiling

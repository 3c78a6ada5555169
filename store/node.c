#include "store/node.h"

#include "store/bytes.h"
#include "store/record.h"

/* Low two bits of a run's tag. */
enum run_kind { RUN_ABSENT = 0, RUN_ZERO = 1, RUN_IDS = 2 };

static enum run_kind kind_of(uint64_t id)
{
	if (id == ID_ABSENT)
		return RUN_ABSENT;
	return id == ID_ZERO ? RUN_ZERO : RUN_IDS; /* no node has id 1 */
}

static unsigned run_length(const uint64_t *slots, unsigned from, enum run_kind kind)
{
	unsigned i = from + 1;
	uint64_t step = kind == RUN_IDS ? 1 : 0;

	while (i < NODE_SLOTS && slots[i] == slots[i - 1] + step)
		i++;
	return i - from;
}

size_t node_encode(const uint64_t slots[NODE_SLOTS], uint8_t *buf)
{
	uint64_t expect = 0;
	uint8_t *p = buf;
	unsigned i = 0;

	while (i < NODE_SLOTS) {
		enum run_kind kind = kind_of(slots[i]);
		unsigned n = run_length(slots, i, kind);

		p = put_varint(p, (uint64_t)(n - 1) << 2 | kind);
		if (kind == RUN_IDS) {
			p = put_varint(p, zigzag(slots[i] - expect));
			expect = slots[i] + n;
		}
		i += n;
	}
	return (size_t)(p - buf);
}

static int decode_run(const uint8_t **p, const uint8_t *end, unsigned level, uint64_t *expect,
		      uint64_t *slots, unsigned room)
{
	uint64_t tag, difference, id = 0;
	unsigned i, n;

	if (!get_varint(p, end, &tag) || tag >> 2 >= room)
		return -1;
	n = (unsigned)(tag >> 2) + 1;
	switch (tag & 3) {
	case RUN_ABSENT:
		break;
	case RUN_ZERO:
		if (level > 0)
			return -1;
		id = ID_ZERO;
		break;
	case RUN_IDS:
		if (!get_varint(p, end, &difference))
			return -1;
		id = *expect + unzigzag(difference);
		if (id < ID_FIRST || id > UINT64_MAX - n)
			return -1;
		*expect = id + n;
		break;
	default:
		return -1;
	}
	for (i = 0; i < n; i++)
		slots[i] = (tag & 3) == RUN_IDS ? id + i : id;
	return (int)n;
}

int node_decode(const uint8_t *payload, size_t len, unsigned level, uint64_t slots[NODE_SLOTS],
		struct err *err)
{
	const uint8_t *p = payload, *end = payload + len;
	uint64_t expect = 0;
	unsigned i = 0;

	while (i < NODE_SLOTS) {
		int n = decode_run(&p, end, level, &expect, slots + i, NODE_SLOTS - i);

		if (n < 0)
			return err_set(err, ERR_CORRUPT, "does not decode at slot %u", i);
		i += (unsigned)n;
	}
	if (p != end)
		return err_set(err, ERR_CORRUPT, "has bytes after its last slot");
	return 0;
}

int node_open(const void *record, size_t len, uint64_t id, const struct store_secret *secret,
	      unsigned *ret_level, uint64_t slots[NODE_SLOTS], struct err *err)
{
	uint8_t key[8];
	struct frame frame;
	unsigned level;

	put_le64(key, id);
	if (frame_open(&frame, record, len, MAGIC_NODE(0), 0x00ffffff, key, sizeof(key), secret,
		       err) < 0)
		goto bad;
	level = frame.magic >> 24;
	if (level > NODE_MAX_LEVEL) {
		err_set(err, ERR_CORRUPT, "has level %u", level);
		goto bad;
	}
	if (node_decode(frame.payload, frame.len, level, slots, err) < 0)
		goto bad;
	*ret_level = level;
	return 0;
bad:
	return err_wrap(err, "page table node %llu", (unsigned long long)id);
}

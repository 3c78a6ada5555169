/* Nodes of page tables. */
#include "fuzz.h"

#include "store/bytes.h"
#include "store/node.h"
#include "store/record.h"

static const struct store_secret secret = {.bytes = {1, 2, 3}};
#define NODE_ID 77

/* Byte 0: the level; then the payload. */
size_t fuzz_seed(unsigned i, uint8_t *buf, size_t room)
{
	uint64_t slots[NODE_SLOTS];

	if (i >= 4 || room < NODE_MAX_RECORD)
		return 0;
	for (unsigned s = 0; s < NODE_SLOTS; s++) {
		switch (i) {
		case 0:
			slots[s] = ID_ABSENT;
			break;
		case 1:
			slots[s] = ID_FIRST + s;
			break;
		case 2:
			slots[s] = s % 3 == 0 ? ID_ZERO : s % 7 == 0 ? ID_ABSENT : 1000000 - 5 * s;
			break;
		default:
			slots[s] = s % 2 ? UINT64_MAX - s : ID_FIRST;
			break;
		}
	}
	buf[0] = (uint8_t)i;
	return 1 + node_encode(slots, buf + 1);
}

/* What decodes must decode to the same again after it has been encoded. */
static void check_round_trip(const uint64_t *slots, unsigned level)
{
	uint8_t buf[NODE_MAX_RECORD];
	uint64_t again[NODE_SLOTS];
	struct err err = {0};
	size_t len = node_encode(slots, buf);

	promise(len <= NODE_MAX_RECORD - FRAME_HEADER);
	promise(node_decode(buf, len, level, again, &err) == 0);
	promise(memcmp(slots, again, sizeof(again)) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint64_t slots[NODE_SLOTS];
	struct err err = {0};
	unsigned level, found;
	uint8_t *record, key[8];

	if (node_open(data, size, NODE_ID, &secret, &found, slots, &err) < 0)
		promise(err.kind == ERR_CORRUPT);
	if (size == 0)
		return 0;
	level = data[0];
	if (level <= NODE_MAX_LEVEL && node_decode(data + 1, size - 1, level, slots, &err) == 0)
		check_round_trip(slots, level);
	/* The same behind a frame whose checksum is right. */
	record = malloc(FRAME_HEADER + size - 1);
	if (!record)
		abort();
	memcpy(record + FRAME_HEADER, data + 1, size - 1);
	put_le64(key, NODE_ID);
	frame_seal(record, size - 1, MAGIC_NODE(level), key, sizeof(key), &secret);
	if (node_open(record, FRAME_HEADER + size - 1, NODE_ID, &secret, &found, slots, &err) < 0)
		promise(err.kind == ERR_CORRUPT);
	else
		promise(found == level && level <= NODE_MAX_LEVEL);
	free(record);
	return 0;
}

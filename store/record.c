#include "store/record.h"

#include "store/bytes.h"

static uint64_t frame_checksum(const uint8_t *record, size_t payload_len, const void *key,
			       size_t key_len, const struct store_secret *secret)
{
	struct sum_part parts[] = {
		{key, key_len},
		{record, 8},
		{record + FRAME_HEADER, payload_len},
	};

	return checksum_parts(secret, parts, 3);
}

void frame_seal(void *record, size_t payload_len, uint32_t magic, const void *key, size_t key_len,
		const struct store_secret *secret)
{
	uint8_t *p = record;

	put_le32(p, magic);
	put_le32(p + 4, (uint32_t)payload_len);
	put_le64(p + 8, frame_checksum(p, payload_len, key, key_len, secret));
}

int frame_open(struct frame *ret, const void *record, size_t len, uint32_t magic, uint32_t mask,
	       const void *key, size_t key_len, const struct store_secret *secret, struct err *err)
{
	const uint8_t *p = record;
	size_t payload_len;

	if (len < FRAME_HEADER)
		return err_set(err, ERR_CORRUPT, "only %zu bytes long", len);
	payload_len = get_le32(p + 4);
	if (payload_len > len - FRAME_HEADER)
		return err_set(err, ERR_CORRUPT, "shorter than it says");
	if (get_le64(p + 8) != frame_checksum(p, payload_len, key, key_len, secret))
		return err_set(err, ERR_CORRUPT, "checksum does not match");
	if ((get_le32(p) & mask) != (magic & mask))
		return err_set(err, ERR_CORRUPT, "is of another kind");
	*ret = (struct frame){get_le32(p), p + FRAME_HEADER, payload_len};
	return 0;
}

void frame_seal_twice(void *record, size_t payload_len, uint32_t magic, const void *key,
		      size_t key_len, const struct store_secret *secret)
{
	size_t len = FRAME_HEADER + payload_len;

	frame_seal(record, payload_len, magic, key, key_len, secret);
	memcpy((uint8_t *)record + len, record, len);
}

int frame_open_twice(struct frame *ret, const void *record, size_t len, uint32_t magic,
		     const void *key, size_t key_len, const struct store_secret *secret,
		     bool *ret_spoilt, struct err *err)
{
	const uint8_t *second = (const uint8_t *)record + len / 2;
	struct frame frame;
	struct err ignored;

	if (frame_open(&frame, record, len / 2, magic, UINT32_MAX, key, key_len, secret, err) < 0 &&
	    frame_open(&frame, second, len / 2, magic, UINT32_MAX, key, key_len, secret,
		       &ignored) < 0)
		return -1;
	if (ret_spoilt)
		*ret_spoilt = len != 2 * (FRAME_HEADER + frame.len) ||
			      memcmp(record, second, len / 2) != 0;
	*ret = frame;
	return 0;
}

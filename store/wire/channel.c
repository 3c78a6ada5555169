#include "store/wire/channel.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "store/base/cleanup.h"
#include "store/base/io.h"
#include "store/bytes.h"
#include "store/hash.h"

#define WIRE_PENDING (256u << 10)
#define LOOK_MS      200
#define READ_STEP    (256u << 10)

static const char magic[8] = {'P', 'A', 'W', 'L', 'W', 'I', 'R', 'E'};

void wire_channel_init(struct wire_channel *ch, int in, int out)
{
	struct stat st;

	*ch = (struct wire_channel){.in = in, .out = out, .patience_ms = -1};
	ch->socket_out = out >= 0 && fstat(out, &st) == 0 && S_ISSOCK(st.st_mode);
}

void wire_channel_clear(struct wire_channel *ch)
{
	free(ch->buffer);
	free(ch->pending);
	ch->buffer = ch->pending = NULL;
}

const char *wire_type_name(enum wire_type type)
{
	static const char *const names[] = {
		[WIRE_ANNOUNCE] = "announcement", [WIRE_OFFER] = "offer", [WIRE_START] = "start",
		[WIRE_LOG] = "log",               [WIRE_INPUT] = "input", [WIRE_MODEL] = "model",
		[WIRE_TABLE] = "table",           [WIRE_PAGES] = "pages", [WIRE_ASK] = "question",
		[WIRE_HAVE] = "answer",           [WIRE_END] = "end",     [WIRE_DONE] = "receipt",
		[WIRE_REQUEST] = "request",       [WIRE_REPLY] = "reply", [WIRE_STORED] = "stored pages",
	};

	return (size_t)type < sizeof(names) / sizeof(*names) && names[type] ? names[type] : "unknown";
}

/* ---- bytes --------------------------------------------------------------------------------- */

/* Waits until fd is ready. The other side's silence is not ours to endure for ever. */
static int wait_for(struct wire_channel *ch, int fd, short events, struct err *err)
{
	int waited = 0;

	for (;;) {
		struct pollfd ready = {.fd = fd, .events = events};
		int rc = poll(&ready, 1, LOOK_MS);

		if (ch->cancelled && atomic_load(ch->cancelled))
			return err_set(err, ERR_GONE, "the transfer was given up");
		if (rc > 0)
			return 0;
		if (rc < 0 && errno != EINTR)
			return err_sys(err, "cannot wait for the other side");
		waited += rc == 0 ? LOOK_MS : 0;
		if (ch->patience_ms >= 0 && waited >= ch->patience_ms)
			return err_set(err, ERR_UNREACHABLE, "the other side has been silent for %d s",
				       waited / 1000);
	}
}

static int write_all(struct wire_channel *ch, const uint8_t *data, size_t len, struct err *err)
{
	while (len > 0) {
		size_t step = len < READ_STEP ? len : READ_STEP;
		ssize_t n;

		if (wait_for(ch, ch->out, POLLOUT, err) < 0)
			return -1;
		n = ch->socket_out ? send(ch->out, data, step, MSG_NOSIGNAL | MSG_DONTWAIT)
				   : write(ch->out, data, step);
		if (n < 0 && (errno == EINTR || errno == EAGAIN))
			continue;
		if (n < 0 && (errno == EPIPE || errno == ECONNRESET))
			return err_set(err, ERR_UNREACHABLE, "the other side does not read any more");
		if (n < 0)
			return err_sys(err, "cannot write the stream");
		data += n;
		len -= (size_t)n;
	}
	return 0;
}

static int write_out(struct wire_channel *ch, const uint8_t *data, size_t len, struct err *err)
{
	uint64_t begin = clock_ns(CLOCK_MONOTONIC);
	int rc = write_all(ch, data, len, err);

	ch->writing_ns += clock_ns(CLOCK_MONOTONIC) - begin;
	return rc;
}

/* Bytes read; fewer than len only at the end. */
static ssize_t read_in(struct wire_channel *ch, uint8_t *data, size_t len, struct err *err)
{
	size_t have = 0;

	while (have < len) {
		ssize_t n;

		if (wait_for(ch, ch->in, POLLIN, err) < 0)
			return -1;
		n = read(ch->in, data + have, len - have);
		if (n == 0 || (n < 0 && errno == ECONNRESET))
			break;
		if (n < 0 && (errno == EINTR || errno == EAGAIN))
			continue;
		if (n < 0)
			return err_sys(err, "cannot read the stream");
		have += (size_t)n;
	}
	ch->bytes_in += have;
	return (ssize_t)have;
}

int wire_flush(struct wire_channel *ch, struct err *err)
{
	size_t n = ch->n_pending;

	ch->n_pending = 0;
	return write_out(ch, ch->pending, n, err);
}

static int queue(struct wire_channel *ch, const void *data, size_t len, struct err *err)
{
	if (!ch->pending && !(ch->pending = malloc(WIRE_PENDING)))
		return err_sys(err, "cannot send");
	ch->bytes_out += len;
	if (len > WIRE_PENDING - ch->n_pending && wire_flush(ch, err) < 0)
		return -1;
	if (len > WIRE_PENDING)
		return write_out(ch, data, len, err);
	if (len)
		memcpy(ch->pending + ch->n_pending, data, len);
	ch->n_pending += len;
	return 0;
}

/* ---- the header ---------------------------------------------------------------------------- */

int wire_open(struct wire_channel *ch, uint32_t flags, struct err *err)
{
	uint8_t header[WIRE_HEADER];

	if (getrandom(&ch->nonce_out, sizeof(ch->nonce_out), 0) != sizeof(ch->nonce_out))
		return err_sys(err, "no random number");
	memcpy(header, magic, sizeof(magic));
	put_le32(header + 8, WIRE_VERSION);
	put_le32(header + 12, flags);
	put_le64(header + 16, ch->nonce_out);
	put_le64(header + 24, XXH3_64bits(header, 24));
	if (queue(ch, header, sizeof(header), err) < 0)
		return -1;
	return wire_flush(ch, err);
}

int wire_accept(struct wire_channel *ch, uint32_t *ret_flags, struct err *err)
{
	uint8_t header[WIRE_HEADER];
	ssize_t n = read_in(ch, header, sizeof(header), err);

	if (n < 0)
		return -1;
	if (n == 0)
		return err_set(err, ERR_UNREACHABLE, "the stream is empty");
	if (n < (ssize_t)sizeof(header) || memcmp(header, magic, sizeof(magic)) != 0)
		return err_set(err, ERR_CORRUPT, "this is no stream of pawl's");
	if (get_le64(header + 24) != XXH3_64bits(header, 24))
		return err_set(err, ERR_CORRUPT, "the stream's header is damaged");
	if (get_le32(header + 8) != WIRE_VERSION)
		return err_set(err, ERR_VERSION, "the stream is of version %u, this pawl reads %u",
			       get_le32(header + 8), WIRE_VERSION);
	ch->nonce_in = get_le64(header + 16);
	*ret_flags = get_le32(header + 12);
	return 0;
}

/* ---- frames -------------------------------------------------------------------------------- */

/* head: the first 16 bytes of the frame. */
static uint64_t checksum(uint64_t nonce, const uint8_t *head, const void *a, size_t a_len,
			 const void *b, size_t b_len)
{
	XXH3_state_t state;

	/* Else a seed that is left there from an earlier call would be believed, and the secret behind it. */
	XXH3_INITSTATE(&state);
	XXH3_64bits_reset_withSeed(&state, nonce);
	XXH3_64bits_update(&state, head, 16);
	XXH3_64bits_update(&state, a, a_len);
	if (b_len)
		XXH3_64bits_update(&state, b, b_len);
	return XXH3_64bits_digest(&state);
}

int wire_send2(struct wire_channel *ch, enum wire_type type, const void *head, size_t head_len,
	       const void *rest, size_t rest_len, struct err *err)
{
	uint8_t frame[WIRE_FRAME_HEAD];

	if (head_len + rest_len > WIRE_FRAME_MOST)
		return err_set(err, ERR_UNSUPPORTED, "a frame of %zu bytes (%s) is too large",
			       head_len + rest_len, wire_type_name(type));
	put_le32(frame, (uint32_t)type);
	put_le32(frame + 4, (uint32_t)(head_len + rest_len));
	put_le64(frame + 8, ch->number_out++);
	put_le64(frame + 16, checksum(ch->nonce_out, frame, head, head_len, rest, rest_len));
	if (queue(ch, frame, sizeof(frame), err) < 0 || queue(ch, head, head_len, err) < 0)
		return -1;
	return rest_len ? queue(ch, rest, rest_len, err) : 0;
}

int wire_send(struct wire_channel *ch, enum wire_type type, const void *payload, size_t len,
	      struct err *err)
{
	return wire_send2(ch, type, payload, len, NULL, 0, err);
}

int wire_send_message(struct wire_channel *ch, enum wire_type type, const ProtobufCMessage *message,
		      struct err *err)
{
	size_t len = protobuf_c_message_get_packed_size(message);
	cleanup_free uint8_t *bytes = malloc(len + 1);

	if (!bytes)
		return err_sys(err, "cannot send");
	protobuf_c_message_pack(message, bytes);
	return wire_send(ch, type, bytes, len, err);
}

static int cut_short(const struct wire_channel *ch, struct err *err)
{
	return err_set(err, ERR_UNREACHABLE, "the stream ends early, at byte %" PRIu64,
		       ch->bytes_in);
}

int wire_receive(struct wire_channel *ch, struct wire_frame *ret, struct err *err)
{
	uint8_t head[WIRE_FRAME_HEAD];
	uint64_t at = ch->bytes_in;
	ssize_t n = read_in(ch, head, sizeof(head), err);
	size_t len;

	if (n <= 0)
		return (int)n;
	if (n < (ssize_t)sizeof(head))
		return cut_short(ch, err);
	len = get_le32(head + 4);
	if (len > WIRE_FRAME_MOST)
		return err_set(err, ERR_CORRUPT, "the stream is damaged at byte %" PRIu64
						 " (a frame of %zu bytes)", at, len);
	if (!ch->buffer && !(ch->buffer = malloc(WIRE_FRAME_MOST)))
		return err_sys(err, "cannot receive");
	n = read_in(ch, ch->buffer, len, err);
	if (n < 0)
		return -1;
	if ((size_t)n < len)
		return cut_short(ch, err);
	if (get_le64(head + 16) != checksum(ch->nonce_in, head, ch->buffer, len, NULL, 0))
		return err_set(err, ERR_CORRUPT, "the stream is damaged at byte %" PRIu64 " (%s, %zu bytes)", at,
			       wire_type_name((enum wire_type)get_le32(head)), len);
	if (get_le64(head + 8) != ch->number_in)
		return err_set(err, ERR_CORRUPT, "the stream lacks something before byte %" PRIu64, at);
	ch->number_in++;
	*ret = (struct wire_frame){(enum wire_type)get_le32(head), ch->buffer, len};
	return 1;
}

int wire_receive_some(struct wire_channel *ch, struct wire_frame *ret, struct err *err)
{
	int rc = wire_receive(ch, ret, err);

	if (rc < 0)
		return -1;
	return rc == 0 ? cut_short(ch, err) : 0;
}

int wire_unexpected(const struct wire_frame *frame, enum wire_type wanted, struct err *err)
{
	return err_set(err, ERR_CORRUPT, "the stream has %s (%u) where %s belongs", wire_type_name(frame->type),
		       (unsigned)frame->type, wire_type_name(wanted));
}

int wire_expect(struct wire_channel *ch, enum wire_type type, struct wire_frame *ret,
		struct err *err)
{
	if (wire_receive_some(ch, ret, err) < 0)
		return -1;
	return ret->type == type ? 0 : wire_unexpected(ret, type, err);
}

int wire_message_of(const struct wire_frame *frame, const ProtobufCMessageDescriptor *descriptor,
		    void *ret, struct err *err)
{
	ProtobufCMessage *message =
		protobuf_c_message_unpack(descriptor, NULL, frame->len, frame->payload);

	if (!message)
		return err_set(err, ERR_CORRUPT, "the stream's %s does not decode",
			       wire_type_name(frame->type));
	*(ProtobufCMessage **)ret = message;
	return 0;
}

int wire_expect_message(struct wire_channel *ch, enum wire_type type,
			const ProtobufCMessageDescriptor *descriptor, void *ret, struct err *err)
{
	struct wire_frame frame;

	if (wire_expect(ch, type, &frame, err) < 0)
		return -1;
	return wire_message_of(&frame, descriptor, ret, err);
}

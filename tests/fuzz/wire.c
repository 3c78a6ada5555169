/* A stream that a store receives: frames whose checksums are right, whatever is in them. */
#include "fuzz.h"

#include <lz4.h>
#include <stdlib.h>
#include <zstd.h>

#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#include "store/base/io.h"
#include "store/bytes.h"
#include "store/wire/pages.h"
#include "store/wire/wire.h"
#include "wire.pb-c.h"

/* The input: u8 type, u24 length, payload, again and again. */
#define HEAD 4u

static struct store *store; /* one for all inputs: what fails leaves nothing */
static char dir[] = "/tmp/pawl-fuzz-wire-XXXXXX";

static uint8_t *put(uint8_t *p, enum wire_type type, const void *payload, size_t len)
{
	put_le32(p, (uint32_t)type | (uint32_t)len << 8);
	memcpy(p + HEAD, payload, len);
	return p + HEAD + len;
}

static uint8_t *put_message(uint8_t *p, enum wire_type type, const ProtobufCMessage *message)
{
	uint8_t buf[1024];

	return put(p, type, buf, protobuf_c_message_pack(message, buf));
}

static uint8_t *put_start(uint8_t *p, Snap__Snapshot *model, uint8_t *packed, size_t *ret_packed)
{
	Wire__Announce announce = WIRE__ANNOUNCE__INIT;
	Wire__Job job = WIRE__JOB__INIT;
	Wire__Head head = WIRE__HEAD__INIT;
	Wire__Start start = WIRE__START__INIT;
	uint8_t raw[512];

	job.name = (ProtobufCBinaryData){3, (uint8_t *)"sim"};
	job.generation = head.generation = 1;
	head.seq = 1;
	head.time = 12345;
	announce.job = &job;
	announce.head = &head;
	p = put_message(p, WIRE_ANNOUNCE, &announce.base);
	start.tables = 1;
	start.model_bytes = snap__snapshot__pack(model, raw);
	start.log_bytes = 64;
	*ret_packed = ZSTD_compress(packed, 1024, raw, start.model_bytes, 1);
	return put_message(p, WIRE_START, &start.base);
}

static uint8_t *put_pages(uint8_t *p)
{
	static uint8_t page[2 * STORE_PAGE_SIZE];
	uint8_t payload[1024] = {0};
	size_t n;

	memset(page, 5, sizeof(page));
	put_le32(payload, 3);
	put_le32(payload + 4, 2);
	put_le64(payload + 8, 10); /* two pages of content, one of zeroes, four that are not there */
	put_le32(payload + 16, 2);
	put_le32(payload + 20, WIRE_DATA);
	put_le64(payload + 24, 12);
	put_le32(payload + 32, 1);
	put_le32(payload + 36, WIRE_ZERO);
	put_le64(payload + 40, 20);
	put_le32(payload + 48, 4);
	put_le32(payload + 52, WIRE_CLEAR);
	n = ZSTD_compress(payload + 56, sizeof(payload) - 56, page, sizeof(page), 1);
	return put(p, WIRE_PAGES, payload, 56 + n);
}

static uint8_t *put_stored(uint8_t *p)
{
	uint8_t page[STORE_PAGE_SIZE], payload[1024] = {0};
	int n;

	memset(page, 6, sizeof(page));
	put_le32(payload, 1);
	put_le32(payload + 4, 1);
	put_le64(payload + 8, 30);
	put_le32(payload + 16, 1);
	put_le32(payload + 20, WIRE_DATA);
	n = LZ4_compress_default((char *)page, (char *)payload + 28, sizeof(page), sizeof(payload) - 28);
	put_le16(payload + 24, (uint16_t)n);
	payload[26] = CODEC_LZ4;
	return put(p, WIRE_STORED, payload, 28 + (size_t)n);
}

size_t fuzz_seed(unsigned i, uint8_t *buf, size_t room)
{
	Snap__Process process = SNAP__PROCESS__INIT, *processes[1] = {&process};
	Snap__Snapshot model = SNAP__SNAPSHOT__INIT;
	Wire__End end = WIRE__END__INIT;
	uint8_t table[8] = {1}, packed[1024], *p = buf;
	size_t n;

	if (i > 0 || room < 16384)
		return 0;
	process.pages_root = 1;
	model.processes = processes;
	model.n_processes = 1;
	p = put_start(p, &model, packed, &n);
	p = put(p, WIRE_MODEL, packed, n);
	p = put(p, WIRE_TABLE, table, sizeof(table));
	p = put_pages(p);
	p = put_stored(p);
	end.pages = 4;
	end.clears = 1;
	p = put_message(p, WIRE_END, &end.base);
	return (size_t)(p - buf);
}

static void remove_store(void)
{
	char command[128];

	store_close(store);
	snprintf(command, sizeof(command), "rm -rf %s", dir);
	if (system(command) != 0)
		abort();
}

static void open_store(void)
{
	struct err err;

	if (store)
		return;
	if (!mkdtemp(dir) || store_open(&store, dir, STORE_CREATE, &err) < 0)
		abort();
	atexit(remove_store);
}

static int stream_of(const uint8_t *data, size_t size)
{
	int fd = memfd_create("stream", MFD_CLOEXEC);
	struct wire_channel ch;
	struct err err;

	if (fd < 0)
		abort();
	wire_channel_init(&ch, -1, fd);
	if (wire_open(&ch, 0, &err) < 0)
		abort();
	while (size >= HEAD) {
		size_t len = get_le32(data) >> 8;

		if (len > size - HEAD)
			len = size - HEAD;
		if (wire_send(&ch, (enum wire_type)data[0], data + HEAD, len, &err) < 0)
			break;
		data += HEAD + len;
		size -= HEAD + len;
	}
	if (wire_flush(&ch, &err) < 0)
		abort();
	wire_channel_clear(&ch);
	lseek(fd, 0, SEEK_SET);
	return fd;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const struct wire_receive_options options = {.codec = CODEC_LZ4};
	struct wire_stats stats;
	struct wire_channel ch;
	struct err err = {0};
	uint32_t flags;
	int fd;

	open_store();
	fd = stream_of(data, size);
	wire_channel_init(&ch, fd, -1);
	if (wire_accept(&ch, &flags, &err) < 0)
		abort();
	if (wire_receive_snapshot(&ch, flags, NULL, store, &options, &stats, &err) == 0) {
		promise(job_name_check(stats.job, &err) == 0);
		promise(stats.present || store_job_drop(store, stats.job, &err) == 0);
	} else {
		promise(err.msg[0]);
	}
	wire_channel_clear(&ch);
	close(fd);
	return 0;
}

#include "store/wire/files.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <xxhash.h>
#include <zstd.h>

#include "store/base/cleanup.h"
#include "store/base/io.h"
#include "store/bytes.h"

#define BLOCK        (1u << 20)
#define HEADER       32u
#define INPUT_HEADER 4096u
#define SUMS_MOST    65536u

/* ---- sending ------------------------------------------------------------------------------- */

static uint64_t size_of(const char *path)
{
	struct stat st;

	return lstat(path, &st) == 0 && S_ISREG(st.st_mode) ? (uint64_t)st.st_size : 0;
}

void wire_files_look(struct wire_files *ret, struct store *store, const struct job_info *job,
		     const Snap__Snapshot *model)
{
	uint64_t log = model->capsule ? model->capsule->log_bytes : 0;
	uint64_t input = INPUT_HEADER + (model->capsule ? model->capsule->stdin_bytes : 0);

	store_job_log_path(store, job, ret->log_path, sizeof(ret->log_path));
	store_job_stdin_path(store, job, ret->input_path, sizeof(ret->input_path));
	ret->log_bytes = size_of(ret->log_path);
	if (ret->log_bytes > log)
		ret->log_bytes = log;
	ret->input_bytes = size_of(ret->input_path);
	ret->input_from = input < ret->input_bytes ? input : ret->input_bytes;
}

struct piece {
	struct wire_channel *ch;
	enum wire_type type;
	uint8_t *raw, *packed;
};

static int send_piece(struct piece *piece, uint64_t offset, size_t len, struct err *err)
{
	uint8_t head[8];
	size_t n = ZSTD_compress(piece->packed, ZSTD_compressBound(BLOCK), piece->raw, len, 3);

	if (ZSTD_isError(n))
		return err_set(err, ERR_SYSTEM, "cannot compress: %s", ZSTD_getErrorName(n));
	put_le64(head, offset);
	return wire_send2(piece->ch, piece->type, head, sizeof(head), piece->packed, n, err);
}

/* Bytes [from, end) of the file, as far as there are any. */
static int send_range(struct piece *piece, int fd, uint64_t from, uint64_t end, struct err *err)
{
	while (from < end) {
		size_t len = end - from < BLOCK ? (size_t)(end - from) : BLOCK;
		ssize_t n = pread_upto(fd, piece->raw, len, (off_t)from);

		if (n < 0)
			return err_sys(err, "cannot read the job's %s", wire_type_name(piece->type));
		if (n == 0)
			break;
		if (send_piece(piece, from, (size_t)n, err) < 0)
			return -1;
		from += (uint64_t)n;
	}
	return 0;
}

static int send_file(struct wire_channel *ch, enum wire_type type, const char *path, uint64_t from,
		     uint64_t end, struct err *err)
{
	cleanup_free uint8_t *raw = malloc(BLOCK), *packed = malloc(ZSTD_compressBound(BLOCK));
	struct piece piece = {ch, type, raw, packed};
	cleanup_fd int fd = -1;

	if (end == 0)
		return 0;
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	if (!raw || !packed || fd < 0)
		return err_sys(err, "cannot read %s", path);
	if (send_range(&piece, fd, 0, end < HEADER ? end : HEADER, err) < 0)
		return -1;
	return send_range(&piece, fd, from < HEADER ? HEADER : from, end, err);
}

/* Of blocks from byte 0 on, the header taken as zeroes; 0 at the end of the file. */
static uint64_t block_sum(int fd, uint64_t block, uint8_t *buf)
{
	if (pread_upto(fd, buf, BLOCK, (off_t)(block * BLOCK)) != BLOCK)
		return 0;
	if (block == 0)
		memset(buf, 0, HEADER);
	return XXH3_64bits(buf, BLOCK) | 1;
}

/* Where the log begins to differ from what the receiver has. */
static uint64_t log_differs_at(const struct wire_files *files, const Wire__File *have)
{
	cleanup_free uint8_t *buf = malloc(BLOCK);
	cleanup_fd int fd = open(files->log_path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	uint64_t block = 0;

	while (buf && fd >= 0 && have && block < have->n_sums &&
	       (block + 1) * BLOCK <= files->log_bytes &&
	       block_sum(fd, block, buf) == have->sums[block])
		block++;
	return block * BLOCK;
}

int wire_files_send(const struct wire_files *files, struct wire_channel *ch, const Wire__File *have,
		    struct err *err)
{
	if (send_file(ch, WIRE_LOG, files->log_path, log_differs_at(files, have), files->log_bytes,
		      err) < 0)
		return -1;
	return send_file(ch, WIRE_INPUT, files->input_path, files->input_from, files->input_bytes,
			 err);
}

int wire_log_sums(struct store *store, const struct job_info *job, Wire__File *ret, struct err *err)
{
	cleanup_free uint8_t *buf = malloc(BLOCK);
	cleanup_fd int fd = -1;
	char path[4096];
	uint64_t sum, blocks;

	*ret = (Wire__File)WIRE__FILE__INIT;
	store_job_log_path(store, job, path, sizeof(path));
	ret->bytes = size_of(path);
	blocks = ret->bytes / BLOCK < SUMS_MOST ? ret->bytes / BLOCK : SUMS_MOST;
	ret->sums = calloc(blocks + 1, sizeof(*ret->sums));
	if (!buf || !ret->sums)
		return err_sys(err, "cannot read the job's log");
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	while (fd >= 0 && ret->n_sums < blocks && (sum = block_sum(fd, ret->n_sums, buf)))
		ret->sums[ret->n_sums++] = sum;
	return 0;
}

/* ---- receiving ----------------------------------------------------------------------------- */

struct piece_at {
	enum wire_type type;
	uint64_t offset, staged;
	size_t len;
};

struct wire_stage {
	int fd; /* a file without a name, beside the logs */
	uint64_t bytes;
	uint64_t most[2], next[2]; /* log, input: length, and where the next piece may begin */
	struct piece_at *pieces;
	size_t n;
	uint8_t *buf;
};

static int open_unnamed(struct store *store)
{
	char dir[4096 + 8];
	int fd;

	snprintf(dir, sizeof(dir), "%s/logs", store_dir(store));
	fd = open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	if (fd >= 0)
		return fd;
	snprintf(dir, sizeof(dir), "%s/logs/.XXXXXX", store_dir(store));
	fd = mkostemp(dir, O_CLOEXEC);
	if (fd >= 0)
		unlink(dir);
	return fd;
}

int wire_stage_open(struct wire_stage **ret, struct store *store, uint64_t log_bytes,
		    uint64_t input_bytes, struct err *err)
{
	struct wire_stage *stage = calloc(1, sizeof(*stage));

	if (!stage)
		return err_sys(err, "cannot receive");
	stage->most[0] = log_bytes;
	stage->most[1] = input_bytes;
	stage->buf = malloc(BLOCK);
	stage->fd = open_unnamed(store);
	if (stage->fd < 0 || !stage->buf) {
		err_sys(err, "cannot write below %s/logs", store_dir(store));
		wire_stage_free(stage);
		return -1;
	}
	*ret = stage;
	return 0;
}

void wire_stage_free(struct wire_stage *stage)
{
	if (!stage)
		return;
	if (stage->fd >= 0)
		close(stage->fd);
	free(stage->pieces);
	free(stage->buf);
	free(stage);
}

static int malformed(enum wire_type type, struct err *err)
{
	return err_set(err, ERR_CORRUPT, "the stream's %s is malformed", wire_type_name(type));
}

static bool header_is_good(const struct wire_stage *stage, enum wire_type type, size_t len)
{
	return len == HEADER &&
	       memcmp(stage->buf, type == WIRE_LOG ? "PAWLLOG1" : "PAWLSTD1", 8) == 0 &&
	       get_le64(stage->buf + 24) == XXH3_64bits(stage->buf, 24);
}

int wire_stage_add(struct wire_stage *stage, const struct wire_frame *frame, struct err *err)
{
	unsigned file = frame->type == WIRE_INPUT;
	struct piece_at piece = {.type = frame->type, .staged = stage->bytes}, *more;
	size_t n;

	if (frame->len < 8)
		return malformed(frame->type, err);
	piece.offset = get_le64(frame->payload);
	n = ZSTD_decompress(stage->buf, BLOCK, frame->payload + 8, frame->len - 8);
	if (ZSTD_isError(n) || n == 0 || piece.offset < stage->next[file] ||
	    piece.offset > stage->most[file] || n > stage->most[file] - piece.offset ||
	    (piece.offset < HEADER && !header_is_good(stage, frame->type, n)) ||
	    (piece.offset > 0 && stage->next[file] == 0))
		return malformed(frame->type, err);
	piece.len = n;
	if (pwrite_full(stage->fd, stage->buf, n, (off_t)piece.staged) < 0)
		return err_sys(err, "cannot keep the job's %s", wire_type_name(frame->type));
	more = reallocarray(stage->pieces, stage->n + 1, sizeof(*more));
	if (!more)
		return err_sys(err, "cannot receive");
	stage->pieces = more;
	stage->pieces[stage->n++] = piece;
	stage->bytes += n;
	stage->next[file] = piece.offset + n;
	return 0;
}

/* Writes one piece where it is not there already. *changed: it was not. */
static int apply_piece(struct wire_stage *stage, const struct piece_at *piece, int fd,
		       uint8_t *there, bool *changed, struct err *err)
{
	ssize_t n;

	if (pread_upto(stage->fd, stage->buf, piece->len, (off_t)piece->staged) !=
	    (ssize_t)piece->len)
		return err_sys(err, "cannot read back what was received");
	n = pread_upto(fd, there, piece->len, (off_t)piece->offset);
	if (n == (ssize_t)piece->len && memcmp(there, stage->buf, piece->len) == 0)
		return 0;
	*changed |= piece->offset >= HEADER && n > 0 && memcmp(there, stage->buf, (size_t)n) != 0;
	if (pwrite_full(fd, stage->buf, piece->len, (off_t)piece->offset) < 0)
		return err_sys(err, "cannot write the job's %s", wire_type_name(piece->type));
	return 0;
}

static int apply_file(struct wire_stage *stage, enum wire_type type, const char *path,
		      struct err *err)
{
	cleanup_free uint8_t *there = malloc(BLOCK);
	unsigned file = type == WIRE_INPUT;
	cleanup_fd int fd = -1;
	bool changed = false;

	if (stage->next[file] == 0)
		return 0;
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0 || !there)
		return err_sys(err, "cannot write %s", path);
	for (size_t i = 0; i < stage->n; i++)
		if (stage->pieces[i].type == type &&
		    apply_piece(stage, &stage->pieces[i], fd, there, &changed, err) < 0)
			return -1;
	/* What followed belonged to what this has replaced. */
	if (changed && ftruncate(fd, (off_t)stage->most[file]) < 0)
		return err_sys(err, "cannot cut %s", path);
	return fdatasync(fd) < 0 ? err_sys(err, "cannot sync %s", path) : 0;
}

int wire_stage_apply(struct wire_stage *stage, struct store *store, const struct job_info *job,
		     struct err *err)
{
	char path[4096];

	store_job_log_path(store, job, path, sizeof(path));
	if (apply_file(stage, WIRE_LOG, path, err) < 0)
		return -1;
	store_job_stdin_path(store, job, path, sizeof(path));
	return apply_file(stage, WIRE_INPUT, path, err);
}

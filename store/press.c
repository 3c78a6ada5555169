#include "store/press.h"

#include <lz4.h>
#include <stdlib.h>
#include <zstd.h>

#include "store/session.h"

/* Compressed pages above this are kept raw: reading them back is then a copy. */
#define WORTH_LEN (STORE_PAGE_SIZE - 256u)

struct page_press {
	enum store_codec codec;
	struct store_secret secret;
	ZSTD_CCtx *cctx; /* CODEC_ZSTD */
};

int page_press_new(struct page_press **ret, const struct store_session *session, struct err *err)
{
	struct page_press *press = calloc(1, sizeof(*press));

	if (!press)
		return err_sys(err, "no memory to compress pages");
	press->codec = session->codec;
	press->secret = session->store->secret;
	if (press->codec == CODEC_ZSTD && !(press->cctx = ZSTD_createCCtx())) {
		free(press);
		return err_sys(err, "no memory to compress pages");
	}
	*ret = press;
	return 0;
}

void page_press_free(struct page_press *press)
{
	if (press)
		ZSTD_freeCCtx(press->cctx);
	free(press);
}

struct stored_page page_compress(struct page_press *press, const void *page, void *room)
{
	size_t n = 0;

	if (press->codec == CODEC_LZ4)
		n = (size_t)LZ4_compress_default(page, room, STORE_PAGE_SIZE, WORTH_LEN);
	else if (press->codec == CODEC_ZSTD)
		n = ZSTD_compressCCtx(press->cctx, room, WORTH_LEN, page, STORE_PAGE_SIZE, 1);
	if (n > 0 && !ZSTD_isError(n))
		return (struct stored_page){room, (uint16_t)n, (uint8_t)press->codec};
	return (struct stored_page){page, STORE_PAGE_SIZE, CODEC_NONE};
}

struct pressed_page page_press_page(struct page_press *press, const void *page, void *room, bool compress)
{
	struct pressed_page pressed = {.hashed = true, .zero = page_is_zero(page), .page = page};

	if (pressed.zero)
		return pressed;
	pressed.hash = hash_bytes(&press->secret, page, STORE_PAGE_SIZE);
	if (compress)
		pressed.stored = page_compress(press, page, room);
	return pressed;
}

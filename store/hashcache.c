#include "store/source.h"

#include <stdlib.h>
#include <string.h>

#include "store/base/search.h"

#define PAGES_UNTOLD (4u << 20)   /* 16 to 20 bytes each: what 16 GiB of memory take */
#define PAGES_LEAST  (64u << 10)

static void free_pack(struct hash_pack *pack)
{
	free(pack->delta);
	free(pack->hash);
	free(pack->superseded);
}

void hash_cache_clear(struct hash_cache *cache)
{
	size_t i;

	for (i = 0; i < cache->n; i++)
		free_pack(&cache->packs[i]);
	free(cache->packs);
	*cache = (struct hash_cache){0};
}

/* How many packs start at or below id. */
static size_t count_upto(const struct hash_cache *cache, uint64_t id)
{
	return COUNT_BEFORE(cache->n, i, cache->packs[i].first <= id);
}

/* Its index, or -1. */
static int64_t index_in(const struct hash_pack *pack, uint64_t id)
{
	uint64_t delta = id - pack->first;
	size_t at;

	if (id < pack->first || delta > pack->span)
		return -1;
	if (!pack->delta)
		return (int64_t)delta;
	at = COUNT_BEFORE(pack->count, i, pack->delta[i] < delta);
	return at < pack->count && pack->delta[at] == delta ? (int64_t)at : -1;
}

/* The pack that has it, and where; NULL: none. */
static struct hash_pack *find_pack(struct hash_cache *cache, uint64_t id, int64_t *ret)
{
	size_t at;

	if (cache->last < cache->n && (*ret = index_in(&cache->packs[cache->last], id)) >= 0)
		return &cache->packs[cache->last];
	at = count_upto(cache, id);
	if (at == 0 || (*ret = index_in(&cache->packs[at - 1], id)) < 0)
		return NULL;
	cache->last = at - 1;
	cache->packs[at - 1].used_at = ++cache->clock;
	return &cache->packs[at - 1];
}

bool hash_cache_find(struct hash_cache *cache, uint64_t id, struct page_hash *ret)
{
	int64_t i;
	const struct hash_pack *pack = find_pack(cache, id, &i);

	if (pack)
		*ret = pack->hash[i];
	return pack;
}

static bool is_superseded(const struct hash_pack *pack, uint32_t i)
{
	return pack->superseded && pack->superseded[i / 64] >> i % 64 & 1;
}

void hash_cache_supersede(struct hash_cache *cache, uint64_t id)
{
	int64_t i;
	struct hash_pack *pack = find_pack(cache, id, &i);

	if (!pack || is_superseded(pack, (uint32_t)i))
		return;
	if (!pack->superseded)
		pack->superseded = calloc(pack->count / 64 + 1, sizeof(*pack->superseded));
	if (!pack->superseded)
		return;
	pack->superseded[i / 64] |= 1ull << i % 64;
	cache->superseded++;
}

static int copy_pack(struct hash_pack *pack, const struct pack_view *view)
{
	uint32_t i;

	*pack = (struct hash_pack){.first = view->first, .span = view->span, .count = view->count};
	if (view->count - 1 < view->span)
		pack->delta = malloc(view->count * sizeof(*pack->delta));
	pack->hash = malloc(view->count * sizeof(*pack->hash));
	if (!pack->hash || (!pack->delta && view->count - 1 < view->span)) {
		free_pack(pack);
		return -1;
	}
	for (i = 0; i < view->count; i++) {
		struct pack_entry e = pack_entry(view, i);

		if (pack->delta)
			pack->delta[i] = (uint32_t)(e.id - view->first);
		pack->hash[i] = e.hash;
	}
	return 0;
}

static uint32_t count_superseded(const struct hash_pack *pack)
{
	uint32_t n = 0;

	for (uint32_t i = 0; pack->superseded && i <= pack->count / 64; i++)
		n += (uint32_t)__builtin_popcountll(pack->superseded[i]);
	return n;
}

static void forget_pack(struct hash_cache *cache, struct hash_pack *pack)
{
	cache->pages -= pack->count;
	cache->superseded -= count_superseded(pack);
	free_pack(pack);
}

static void drop(struct hash_cache *cache, size_t from, size_t end)
{
	for (size_t i = from; i < end; i++)
		forget_pack(cache, &cache->packs[i]);
	memmove(cache->packs + from, cache->packs + end, (cache->n - end) * sizeof(*cache->packs));
	cache->n -= end - from;
}

/* What was last used in the first eighth of the time since the oldest was. */
static void drop_oldest(struct hash_cache *cache)
{
	uint64_t oldest = cache->clock;
	size_t kept = 0;

	for (size_t i = 0; i < cache->n; i++)
		if (cache->packs[i].used_at < oldest)
			oldest = cache->packs[i].used_at;
	for (size_t i = 0; i < cache->n; i++) {
		struct hash_pack *pack = &cache->packs[i];

		if (pack->used_at - oldest > (cache->clock - oldest) / 8)
			cache->packs[kept++] = *pack;
		else
			forget_pack(cache, pack);
	}
	cache->n = kept;
}

/* Without memory for what it needs then nothing is left. */
static void shrink(struct hash_pack *pack)
{
	uint32_t *delta = pack->delta ? pack->delta : malloc(pack->count * sizeof(*delta));
	struct page_hash *hash;
	uint32_t kept = 0;

	for (uint32_t i = 0; delta && i < pack->count; i++) {
		if (is_superseded(pack, i))
			continue;
		delta[kept] = pack->delta ? pack->delta[i] : i;
		pack->hash[kept++] = pack->hash[i];
	}
	pack->delta = delta;
	free(pack->superseded);
	pack->superseded = NULL;
	pack->count = kept;
	/* They stay where they are if that fails. */
	delta = kept ? reallocarray(pack->delta, kept, sizeof(*delta)) : NULL;
	hash = kept ? reallocarray(pack->hash, kept, sizeof(*hash)) : NULL;
	pack->delta = delta ? delta : pack->delta;
	pack->hash = hash ? hash : pack->hash;
}

static void drop_superseded(struct hash_cache *cache)
{
	size_t kept = 0;

	for (size_t i = 0; i < cache->n; i++) {
		struct hash_pack *pack = &cache->packs[i];

		cache->pages -= pack->count;
		if (pack->superseded)
			shrink(pack);
		cache->pages += pack->count;
		if (pack->count)
			cache->packs[kept++] = *pack;
		else
			free_pack(pack);
	}
	cache->n = kept;
	cache->superseded = 0;
}

/* By an eighth at once: each look at all of them takes its time. */
static void make_room(struct hash_cache *cache)
{
	size_t most = cache->most_pages ? cache->most_pages : PAGES_UNTOLD;

	if (cache->pages <= most)
		return;
	if (cache->superseded >= most / 8)
		drop_superseded(cache);
	while (cache->pages > most - most / 8)
		drop_oldest(cache);
}

void hash_cache_expect(struct hash_cache *cache, uint64_t pages)
{
	uint64_t most = pages + pages / 2; /* those of pages that were written since are still there */

	cache->most_pages = most > PAGES_LEAST ? most : PAGES_LEAST;
}

static int grow(struct hash_cache *cache)
{
	size_t room = cache->room ? cache->room * 2 : 64;
	struct hash_pack *more = reallocarray(cache->packs, room, sizeof(*more));

	if (!more)
		return -1;
	cache->packs = more;
	cache->room = room;
	return 0;
}

void hash_cache_add(struct hash_cache *cache, const struct pack_view *view)
{
	struct hash_pack pack;
	size_t at;

	if (cache->n == cache->room && grow(cache) < 0)
		return;
	if (copy_pack(&pack, view) < 0)
		return;
	/* Ranges of packs do not overlap, so what lies in this one's is of before it was compacted. */
	at = COUNT_BEFORE(cache->n, i, cache->packs[i].first < view->first);
	drop(cache, at, count_upto(cache, view->first + view->span));
	memmove(cache->packs + at + 1, cache->packs + at, (cache->n - at) * sizeof(*cache->packs));
	pack.used_at = ++cache->clock;
	cache->packs[at] = pack;
	cache->n++;
	cache->pages += pack.count;
	cache->last = at;
	make_room(cache);
}

/* ---- from one session to the next ---------------------------------------------------------- */

struct hash_cache *hash_cache_take(struct store *store)
{
	struct hash_cache *cache;

	pthread_mutex_lock(&store->hashes_mutex);
	cache = store->kept_hashes;
	store->kept_hashes = NULL;
	pthread_mutex_unlock(&store->hashes_mutex);
	return cache ? cache : calloc(1, sizeof(*cache));
}

static void free_cache(struct hash_cache *cache)
{
	if (cache)
		hash_cache_clear(cache);
	free(cache);
}

void hash_cache_keep(struct store *store, struct hash_cache *cache)
{
	struct hash_cache *other;

	pthread_mutex_lock(&store->hashes_mutex);
	other = store->kept_hashes;
	if (!other || (cache && cache->n > other->n)) {
		store->kept_hashes = cache;
		cache = other;
	}
	pthread_mutex_unlock(&store->hashes_mutex);
	free_cache(cache);
}

void hash_cache_forget(struct store *store)
{
	free_cache(store->kept_hashes);
	store->kept_hashes = NULL;
}

# A forked pool (mclapply) and a socket cluster. Usage: parallel.R ROUNDS
library(parallel)
rounds <- as.integer(commandArgs(TRUE)[1])
work <- function(n) { m <- matrix(sin(seq_len(4900) * n), 70); sum(svd(m)$d) }
cluster <- makeCluster(2)
for (round in seq_len(rounds)) {
  a <- unlist(mclapply(round + 1:8, work, mc.cores = 3))
  b <- parSapply(cluster, round + 1:4, work)
  cat(round, format(sum(a), digits = 15), format(sum(b), digits = 15), "\n")
}
stopCluster(cluster)

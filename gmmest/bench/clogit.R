# survival::clogit on choice sets that a caller wrote: a fit for each line that comes in, two lines for each
# that go out, estimates and robust standard errors.
# Rscript clogit.R FOLDER ROWS COLUMNS ALTERNATIVES
suppressMessages(library(survival))
arguments <- commandArgs(trailingOnly = TRUE)
size <- as.integer(arguments[2:4]) # rows, columns, alternatives
read <- function(name, count) readBin(file.path(arguments[1], name), "double", count)
say <- function(values) cat(sprintf("%.17g", values), "\n")

choices <- data.frame(chosen = read("chosen.f64", size[1]), set = rep(seq_len(size[1] / size[3]), each = size[3]))
choices$X <- matrix(read("features.f64", size[1] * size[2]), size[1], size[2])
invisible(gc())
cat("ready\n")
asked <- file("stdin", "r")
while (length(readLines(asked, 1)) > 0) {
  # robust variances need an approximation to ties; with one choice in a set every one of them is exact
  fit <- clogit(chosen ~ X + strata(set) + cluster(set), data = choices, method = "breslow")
  say(coef(fit))
  say(sqrt(diag(vcov(fit))))
  flush(stdout())
}

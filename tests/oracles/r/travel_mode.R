# Travel mode (Greene): conditional logit by Newton's method; classical and robust standard errors.
#   Rscript --vanilla travel_mode.R travel_mode.csv > travel_mode_output.csv
folder <- dirname(sub("^--file=", "", grep("^--file=", commandArgs(), value = TRUE)))
source(file.path(folder, "gmm.R"))
data <- read.csv(commandArgs(trailingOnly = TRUE)[1])
air <- as.numeric(data$mode == "air")
X <- cbind(
  asc_air = air, asc_train = as.numeric(data$mode == "train"), asc_bus = as.numeric(data$mode == "bus"),
  gc = data$gc, ttme = data$ttme, hinc_air = data$hinc * air
)
set <- match(data$individual, unique(data$individual))
sum_by <- function(v) rowsum(v, set)[, , drop = FALSE]
cat("name,value\n")

loglike <- function(b) {
  u <- (X %*% b)[, 1]
  u <- u - ave(u, set, FUN = max)
  sum(u[data$choice == 1]) - sum(log(sum_by(exp(u))))
}

b <- setNames(rep(0, ncol(X)), colnames(X))
say("loglike", c(zero = loglike(b)))
for (step in 1:100) {
  u <- (X %*% b)[, 1]
  s <- exp(u - ave(u, set, FUN = max))
  s <- s / sum_by(s)[set, 1]
  # the information sum_i X_i'(diag(s_i) - s_i s_i')X_i is C'C, C the rows less their mean in the set, by sqrt(s)
  information <- qr((X - sum_by(s * X)[set, ]) * sqrt(s), tol = 1e-14)
  score <- sum_by(X * (data$choice - s))
  R <- qr.R(information)
  move <- backsolve(R, backsolve(R, colSums(score), transpose = TRUE))
  b <- b + move
  if (max(abs(move / b)) < 1e-15) break
}
stopifnot(max(abs(move / b)) < 1e-12)
say("loglike", c(estimate = loglike(b)))
say("b", b)
inverse <- backsolve(R, diag(ncol(X)))
say("classical", setNames(sqrt(rowSums(inverse^2)), colnames(X)))
say("robust", setNames(sqrt(colSums((score %*% inverse %*% t(inverse))^2)), colnames(X)))

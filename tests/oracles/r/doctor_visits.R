# Doctor visits (Cameron and Trivedi): exponential mean, additive errors, just identified.
#   Rscript --vanilla doctor_visits.R doctor_visits.csv > doctor_visits_output.csv
folder <- dirname(sub("^--file=", "", grep("^--file=", commandArgs(), value = TRUE)))
source(file.path(folder, "gmm.R"))
data <- read.csv(commandArgs(trailingOnly = TRUE)[1])
exogenous <- as.matrix(cbind(data[c("aget", "aget2", "educyr", "actlim", "totchr")], const = 1))
X <- cbind(as.matrix(data[c("private", "medicaid")]), exogenous)
Z <- cbind(as.matrix(data[c("income", "ssiratio")]), exogenous)
y <- data$docvis
n <- nrow(Z)
cat("name,value\n")

# Newton's method on R^-T Z'(y - exp(X b)) = 0 with R of Z, which takes the units of Z out
R <- root(Z)
b <- setNames(c(rep(0, ncol(X) - 1), log(mean(y))), colnames(X))
for (step in 1:100) {
  mean_y <- exp(X %*% b)[, 1]
  slope <- whitened(R, crossprod(Z, X * mean_y) / n)
  move <- qr.coef(qr(slope, tol = 1e-14), whitened(R, crossprod(Z, y - mean_y) / n))[, 1]
  b <- b + move
  if (max(abs(move)) < 1e-15) break
}
stopifnot(max(abs(move)) < 1e-12)
fit <- list(R = R, G = slope)
say("b", b)
say("se", sandwich(fit, Z * (y - exp(X %*% b)[, 1])))

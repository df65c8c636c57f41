# Rents of 50 states (Stata's hsng): two-stage least squares, two-step GMM, LIML.
#   Rscript --vanilla housing.R housing.csv > housing_output.csv
folder <- dirname(sub("^--file=", "", grep("^--file=", commandArgs(), value = TRUE)))
source(file.path(folder, "gmm.R"))
data <- read.csv(commandArgs(trailingOnly = TRUE)[1])
exogenous <- as.matrix(cbind(data["pcturban"], const = 1))
X <- cbind(as.matrix(data["hsngval"]), exogenous)
Z <- cbind(as.matrix(data[c("faminc", grep("^region_", names(data), value = TRUE))]), exogenous)
y <- data$rent
n <- nrow(Z)
cat("name,value\n")

one <- gmm(y, X, Z, Z)
unadjusted_two <- gmm(y, X, Z, unadjusted(one, Z))
say("unadjusted b", unadjusted_two$b)
say("unadjusted se", sandwich(unadjusted_two, unadjusted(unadjusted_two, Z)))
say("unadjusted J", c(stat = n * criterion(unadjusted_two, Z)))

two <- gmm(y, X, Z, robust(one, Z))
say("robust b", two$b)
say("robust se", sandwich(two, robust(two, Z)))
say("robust J", c(stat = n * criterion(two, Z)))

# LIML: the k-class with k the smallest root of |Y'M1 Y - k Y'M Y| = 0, Y = (y, endogenous), M and M1 the
# residual makers of all and of the included instruments
Y <- cbind(y, X[, "hsngval"])
less <- function(V, of) qr.resid(qr(of, tol = 1e-14), V)
inner <- crossprod(less(Y, Z))
wider <- crossprod(less(Y, exogenous))
k <- min(Re(eigen(solve(inner, wider), only.values = TRUE)$values))
bread <- crossprod(X) - k * crossprod(less(X, Z))
meat <- crossprod(X, y) - k * crossprod(less(X, Z), less(y, Z))
unit <- sqrt(diag(bread))
say("liml b", setNames(solve(bread / outer(unit, unit), meat / unit)[, 1] / unit, colnames(X)))
